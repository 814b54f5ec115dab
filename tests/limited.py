"""A script of the repository as a process whose files cannot grow beyond a limit, as on a full disk.

python tests/limited.py BYTES SCRIPT|MODULE FLAGS...
"""

import resource
import runpy
import sys
from pathlib import Path

limit = int(sys.argv[1])
sys.path[0] = str(Path(__file__).parents[1])
sys.argv = sys.argv[2:]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
