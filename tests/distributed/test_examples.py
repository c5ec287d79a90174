"""The examples of ``docs/scaling.md``: scripts that bash reads, and a manifest that is YAML."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import fastncf

PAGE = Path(fastncf.__file__).parents[1] / "docs" / "scaling.md"


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_reads_all_scripts():
    scripts = blocks("sh")
    assert any("#SBATCH" in script for script in scripts)
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_the_manifest_starts_the_command_line():
    (manifest,) = map(yaml.safe_load, blocks("yaml"))
    (container,) = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["command"][:4] == ["torchrun", "-m", "fastncf", "fit"]
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == manifest["spec"]["nprocPerNode"]
