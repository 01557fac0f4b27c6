"""Make tests/reference/: one small archive for each reference system, of the recorded fixtures the suite needs.

    python tools/copy_reference.py ../shared/fixtures

The files go in byte for byte. An archive and not a folder, because most broken checkpoints differ from the sound one in
a few bytes (34 of LabCore's: 0.9 MB as files, 0.04 MB compressed together), and so that no hostile pickle lies open in
a working tree. Sorted names and no times: the same files give the same archive.
"""

import argparse
import io
import lzma
import tarfile
from pathlib import Path

DESTINATION = Path(__file__).parent.parent / "tests" / "reference"

# System -> folders and files of it that are copied; the rest only the whole set has (cases with GPT-2's 50,257 rows,
# for one).
SELECTION: dict[str, tuple[str, ...]] = {
    "gpt2seed": (
        "small_bias",
        "small_bias_ddp",
        "small_nobias_eps1e-2",
        "broken",
        "filters",
        "inference_cli",
        "tokenizer",
    ),
    "labcore": (
        "char_learned_bias",
        "char_learned_nobias_ddp",
        "char_rope_nobias",
        "benchmark",
        "broken",
        "chat",
        "config_loader",
        "filters",
        "generate_cli",
        "tokenizers",
    ),
    "nanochat": (
        "base_gqa_origmod",
        "exp_step_002920",
        "ve_window_jan2026",
        "newest_sssl",
        "broken",
        "filters",
        "tokenizer",
    ),
    "swamla": (
        "gqa_qlora_bias_ddp",
        "hf_flat",
        "mixed_dtype_fp8opt",
        "broken",
        "filters",
        "gpt2_vocab_bf16/expected.json",
        "gpt2_vocab_bf16/prompts.txt",
    ),
}
SHARED = ("broken_verdicts.json",)


def archive(root: Path, system: str, selection: tuple[str, ...]) -> bytes:
    """A tar.xz of the selected folders, and of the files that all systems share."""
    named = [root / system / name for name in selection]
    members = [path for top in named for path in (top, *top.rglob("*")) if path.is_file()]
    members += [root / name for name in SHARED]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(members):
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            data = path.read_bytes()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return lzma.compress(packed.getvalue(), preset=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("fixtures", type=Path, help="folder with the whole set: labcore/, nanochat/ …")
    root: Path = parser.parse_args().fixtures
    DESTINATION.mkdir(exist_ok=True)
    for system, selection in SELECTION.items():
        data = archive(root, system, selection)
        (DESTINATION / f"{system}.tar.xz").write_bytes(data)
        print(f"{system}.tar.xz: {len(data) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
