"""``hf:owner/name`` against a real server on loopback, in processes of their own (HF_ENDPOINT is read at import)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import running_hub

from labkit.checkpoints import hub
from labkit.errors import CheckpointError

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"

LOAD_ALL = """
import json, sys, labkit
for source, revision in json.loads(sys.argv[1]):
    try:
        lm = labkit.load(source, revision=revision)
        said = {"family": lm.checkpoint.family, "sum": float(lm.logits([1, 2, 3]).double().sum()),
                "tokenizer": lm.tokenizer is not None, "notes": list(lm.checkpoint.notes)}
    except labkit.LabkitError as error:
        said = {"error": str(error)}
    print("RESULT", json.dumps(said))
"""


def load_all(sources, home: Path, endpoint: str, offline: bool = False) -> list[dict]:
    """Load each (source, revision) in one new interpreter with an own hub cache."""
    env = os.environ | {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_secret_of_the_test",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", LOAD_ALL, json.dumps(sources)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "hf_secret_of_the_test" not in done.stdout + done.stderr
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    for name in ("lab/labcore", "lab/cut-labcore"):
        shutil.copytree(CHECKPOINTS / "shakespeare-char", root / name)
    shutil.copytree(CHECKPOINTS / "arithmetic", root / "lab" / "arithmetic")
    (root / "lab" / "gated").mkdir()
    (root / "lab" / "empty").mkdir()
    (root / "lab" / "empty" / "README.md").write_text("nothing here")
    return root


def test_checkpoints_come_from_a_hub_and_every_failure_says_what_to_do(repositories, tmp_path):
    first = sorted(path.name for path in (CHECKPOINTS / "arithmetic").iterdir() if path.is_dir())[0]
    with running_hub(repositories) as server:
        results = load_all(
            [
                ("hf:lab/labcore", None),
                (str(CHECKPOINTS / "shakespeare-char"), None),
                ("hf:lab/cut-labcore", "main"),
                (f"hf:lab/arithmetic/{first}", None),
                ("hf:lab/arithmetic", None),
                ("hf:lab/none", None),
                ("hf:lab/gated", None),
                ("hf:lab/labcore", "v9"),
                ("hf:lab/empty", None),
                ("hf:lab/broken", None),
                ("hf:nonsense", None),
            ],
            tmp_path,
            server.endpoint,
        )
        loaded, local, resumed, step, several, missing, gated, revision, empty, broken, nonsense = results
        offline = load_all([("hf:lab/labcore", None), ("hf:lab/other", None)], tmp_path, server.endpoint, offline=True)
        endpoint = server.endpoint
    dead = load_all([("hf:lab/labcore", None), ("hf:lab/other", None)], tmp_path, endpoint)
    assert loaded["sum"] == local["sum"] == resumed["sum"]
    assert loaded["tokenizer"]
    assert step["family"] == "nanochat" and step["tokenizer"]
    assert "several checkpoints" in several["error"] and f"hf:lab/arithmetic/{first}" in several["error"]
    assert "no such repository" in missing["error"] and "HF_TOKEN" in missing["error"]
    assert "gated" in gated["error"] and "HF_TOKEN" in gated["error"]
    assert "no revision 'v9'" in revision["error"]
    assert "no checkpoint among its 1 files" in empty["error"]
    assert "failed" in broken["error"] or "cannot be reached" in broken["error"]
    assert "hf:owner/name" in nonsense["error"]
    for cached, uncached in (offline, dead):
        assert cached["sum"] == local["sum"]
        assert "cannot be reached" in uncached["error"]
    assert all("\n" not in result.get("error", "") for result in results)


@pytest.mark.parametrize(
    ("names", "inside", "model", "fetched"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], None, "model.safetensors", 2),
        (["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
          "model.safetensors.index.json"], None, "model-00001-of-00002.safetensors", 4),
        (["a.Q4.gguf", "b.Q8.gguf"], "b.Q8.gguf", "b.Q8.gguf", 1),
        (["step_000100/model_000100.pt", "step_000100/meta_000100.json", "step_000100/optim_000100_rank0.pt"], None,
         "step_000100/model_000100.pt", 2),
        (["checkpoint_tokens_900k_loss_3.1/pytorch_model.bin", "checkpoint_tokens_2M_loss_2.9/pytorch_model.bin",
          "checkpoint_tokens_2M_loss_2.9/config.json"], None, "checkpoint_tokens_2M_loss_2.9/pytorch_model.bin", 2),
    ],
)  # fmt: skip
def test_of_a_repositorys_files_the_right_ones_are_chosen(names, inside, model, fetched):
    wanted, chosen, _ = hub.choose(names, inside, "hf:a/b")
    assert (chosen, len(wanted)) == (model, fetched)


@pytest.mark.parametrize("names", [["a.gguf", "b.gguf"], ["x/ckpt.pt", "y/ckpt.pt"]])
def test_several_checkpoints_are_listed_and_not_guessed(names):
    with pytest.raises(CheckpointError, match="several checkpoints.*name one of them"):
        hub.choose(names, None, "hf:a/b")
