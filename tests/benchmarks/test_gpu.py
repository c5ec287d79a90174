"""Run the GPU script without a GPU: as it is, and with the CPU in the place of the device."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

SCRIPT = Path(gpu.__file__)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_exits_cleanly():
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert "no CUDA device" in run.stdout


def by_factors(trainer):
    """Return a function that makes a trainer of factors for a module, as trainers on a device take one."""
    return lambda model, split, stage, order: trainer(model.factors(), split, stage, order)


def test_every_part_runs_with_the_cpu_as_the_device(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(gpu, "NOTEBOOK", replace(gpu.NOTEBOOK, batch_size=4096))
    monkeypatch.setattr(gpu, "NVIDIA", replace(gpu.NVIDIA, dim=8, mlp_dim=12, layers=(16, 8), batch_size=4096))
    stand_in = type("StandIn", (gpu.AutogradTrainer,), {})
    monkeypatch.setattr(gpu, "CUDAMLPTrainer", stand_in)  # tests of the kernel run it by Triton's interpreter
    small = {"dim": 8, "num_negatives": 64, "epochs": 4}
    for kind in ("STATES", "SETS"):
        softmax = getattr(gpu, kind)
        on_cpu = softmax.on_cpu  # tests of the kernels run them by Triton's interpreter
        monkeypatch.setattr(
            gpu, kind, softmax._replace(config=replace(softmax.config, **small), on_cuda=by_factors(on_cpu))
        )
    monkeypatch.setattr(gpu, "DEFAULT", replace(gpu.DEFAULT, num_negatives=64, epochs=4))
    monkeypatch.setattr(gpu, "LARGE", 16)
    for name in ("show_timeline", "check_failures"):  # they need streams and the memory of a device
        monkeypatch.setattr(gpu, name, lambda *args: None)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "ceilings", lambda: {"copy_bytes_per_second": 1.0, "bf16_flop_per_second": 1.0})
    monkeypatch.setattr(gpu, "fit_on", lambda device, *args, **kwargs: gpu.fastncf.fit(*args, device="cpu", **kwargs))
    fakes = {"get_device_name": "a CPU in its place", "max_memory_allocated": 0}
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--users", "900", "--items", "400", "--interactions", "20000"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert not ended.value.code, capsys.readouterr().err
    (saved,) = tmp_path.glob("*.json")
    report = json.loads(saved.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report
    assert report["mf_float32_metric_gap"] == 0
    for kind in ("states", "sets"):
        assert report[f"{kind}_float32_loss_gap"] == report[f"{kind}_bfloat16_loss_gap"] == 0
        assert report[f"{kind}_positions_per_second"] > 0
    assert "| the same, CSV to metrics |" in "\n".join(
        gpu.lines(report | {"nvidia_amp_samples_per_second": 1.0, "nvidia_tf32_samples_per_second": 1.0})
    )
    assert report["mlp_bfloat16_samples_per_second"] > 0
    assert {"whole_process_seconds", "whole_run_bfloat16_seconds", "whole_run_fused_hr@10"} <= set(report)
