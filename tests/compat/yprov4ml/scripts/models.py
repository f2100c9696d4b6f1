"""Models in the orders and with the keywords of yProv4ML 3.x."""

import torch
import yprov4ml
from torch import nn

yprov4ml.start_run(
    prov_user_namespace="www.example.org",
    experiment_name="models",
    provenance_save_dir="prov",
    metrics_file_type="parquet",
    csv_separator=";",
    use_compressor=None,
    use_run_id=5,
)
torch.manual_seed(0)
base = nn.Linear(4, 2)
torch.save(base.state_dict(), "base.pt")
yprov4ml.log_model("pretrained", base, is_input=True)
yprov4ml.log_artifact("base weights", "base.pt", "Training", is_model=True, is_input=True)

network = nn.Sequential(base, nn.ReLU(), nn.Linear(2, 1))
for step in range(3):
    with torch.no_grad():
        base.weight.add_(0.5)
    yprov4ml.log_metric("Loss", 1 / (step + 1), context="Training", step=step)
    yprov4ml.save_model_version("network", network, "Training", step, incremental=True)
yprov4ml.save_model_version(network.state_dict(), "network", "Training", step=3)

with open("notes.txt", "w") as notes:
    notes.write("three steps")
yprov4ml.log_artifact("notes", "notes.txt", "Training", 3, log_copy_in_prov_directory=True)
yprov4ml.log_artifact("notes.txt", yprov4ml.Context.TESTING)

yprov4ml.log_model("network", network, True, log_model_layers=True)
yprov4ml.log_model("described only", network, log_as_artifact=False)
yprov4ml.end_run(create_graph=True, create_svg=True, crate_ro_crate=False)
