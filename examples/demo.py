"""`make demo`: both hippocampi of the MNI152 brain from one click each, through the real command line."""

import json
import shlex
import subprocess
import sys
from importlib import util
from pathlib import Path

OUT = Path("out/demo")
BRAIN = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def brain() -> Path:
    """The MNI152 T1 template inside the installed nilearn package; nothing is downloaded or imported."""
    package = util.find_spec("nilearn")
    if package is None or package.origin is None:
        raise SystemExit("the demo's brain comes with nilearn: pip install 'medseg-cli[demo]'")
    return Path(package.origin).parent / BRAIN


def main() -> int:
    """Run `medseg segment`, print the volumes and where to look."""
    command = ["segment", str(brain()), "-o", f"{OUT}/hippocampi.nii.gz", "--preset", "hippocampus-mr", "--overwrite"]
    command += ["--prompts", str(Path(__file__).with_name("prompts.csv")), *sys.argv[1:]]
    OUT.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"medseg {shlex.join(command)}\n")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "medseg_cli", *command], check=False).returncode
    if code == 0:
        report = json.loads((OUT / "hippocampi.json").read_text(encoding="utf-8"))
        for label in report["labels"]:
            sys.stdout.write(f"{label['name']}: {label['volume_ml']:.2f} mL\n")
        sys.stdout.write(f"look at {OUT}/hippocampi.png, hippocampi.json and hippocampi.nii.gz\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
