"""Metric files in the formats of yProv4ML, each asked for by name or member."""

import sys

import yprov4ml

formats = {
    "csv": {"metrics_file_type": "csv", "csv_separator": ";"},
    "zarr": {"metrics_file_type": yprov4ml.MetricsType.ZARR, "use_compressor": False},
    "gzip": {
        "metrics_file_type": yprov4ml.MetricsType.CSV,
        "csv_separator": "|",
        "use_compressor": yprov4ml.CompressorType.GZIP,
    },
}
for name in sys.argv[1:]:
    yprov4ml.start_run(name, provenance_save_dir="prov", **formats[name])
    for step in range(20):
        yprov4ml.log_metric("loss", 1 / (step + 1), "training", step, source="manual")
    yprov4ml.end_run()
