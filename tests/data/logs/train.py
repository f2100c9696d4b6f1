"""What ``make.py`` records: one rank of a small run that uses every kind of event once."""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

import prov4ml
from prov4ml import events as ev
from prov4ml import origin

# The log is kept for ever: it tells of no machine of ours.
origin.machine = lambda: {"os": "Linux 6.1", "machine": "x86_64", "cores": 2, "memory": 8 << 30}

rank = int(os.environ["RANK"])
Path("data.csv").write_text("x,y\n1,2\n")
run = prov4ml.start_run("sample")
prov4ml.log_params({"learning_rate": 0.5, "steps": 20, "name": "Ünïcode <&> \"'", "none": None})
prov4ml.log_params({"flag": True, "layers": [64, 32], "big": 2**70, "object": object, "rank": rank})
prov4ml.log_param("long", "0123456789" * 200)
prov4ml.log_param("steps", 40)
prov4ml.set_tag("purpose", "kept for later releases")
prov4ml.log_dataset("data.csv", "table")
prov4ml.log_dataset([1, 2, 3], "train", "training")

with prov4ml.context("training"):
    for step in range(20):
        prov4ml.log_metric("loss", 1 / (step + 1), step=step)
        if step % 10 == 9:
            prov4ml.save_model_version(bytes([step]), "model", step=step)
    with prov4ml.context("warm up/50 %"):
        prov4ml.log_metrics({"nan": float("nan"), "inf": float("inf"), "whole": 7})
prov4ml.log_metric("loss", 0.5, "validation", 20, source="other", timestamp=1_700_000_000.5)
prov4ml.log_artifact("notes", __file__, is_input=True)
prov4ml.log_artifact("copy.csv", "data.csv", copy=False)

prov4ml.register_final_metric("loss", 10, "MIN")
prov4ml.register_final_metric("score", 0, lambda before, value: before + value)
with prov4ml.epoch(3, activity=True), prov4ml.activity("tokenise", vocabulary=100) as step:
    step.used("table")
    prov4ml.log_metric("score", 0.5)
    prov4ml.log_artifact("tokens.csv", "data.csv", copy=False)

if rank == 0:
    if not (child := os.fork()):
        prov4ml.log_metric("of a child", 1.0, step=0)
        os._exit(0)
    os.waitpid(child, 0)
    # What no healthy process writes: a stepped clock, dropped events, an event of the future.
    run._recorder.append(ev.ClockStepped(time.time_ns(), 1_000_000))
    run._recorder.append(ev.Dropped(time.time_ns(), 5, 0, "none, in truth"))
    run._journal.append(msgspec.msgpack.encode([63, "unknown"]))
    prov4ml.log_model(b"weights", "model", "training")
    Path("rank0").touch()
else:
    while not Path("kill").exists():  # until everything that was logged has been received
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
prov4ml.end_run()
sys.exit(0)
