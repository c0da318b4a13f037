import subprocess
import sys
from pathlib import Path

import jaxdp.data


def test_data_imports_no_jax():
    names = sorted(path.stem for path in Path(jaxdp.data.__path__[0]).glob("*.py"))
    modules = ", ".join(f"jaxdp.data.{name}" for name in names if name != "__init__")
    script = f"import sys, {modules}; print(sorted({{'jax', 'jaxlib', 'flax'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
