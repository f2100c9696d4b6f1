"""Code, command, inputs and outputs, as the manual's reproducible example logs them."""

import prov4ml

prov4ml.start_run(
    prov_user_namespace="www.example.org",
    experiment_name="reproducible_example",
    provenance_save_dir="prov",
    save_after_n_logs=100,
    collect_all_processes=True,
)
prov4ml.log_source_code()
prov4ml.log_execution_command("python3 source.py")
for i in range(1, 10):
    prov4ml.log_input(i)
    prov4ml.log_output(i**2)
    prov4ml.log_metric("square", i**2, prov4ml.Context.TRAINING, step=i)
with open("square.txt", "w") as file:
    file.write("81")
prov4ml.log_input(__file__, True)
prov4ml.log_output("square.txt", log_copy_in_prov_directory=False)
prov4ml.end_run(True, True)
