"""A bundle behind HTTP, and the app in the browser.

Raises:
    MachineError: on import, if the packages of the extra `serve` are not there.
"""

from importlib.util import find_spec

from unetseg.errors import MachineError

_missing = [
    name
    for name in ("fastapi", "prometheus_client", "python_multipart", "uvicorn")
    if not find_spec(name)
]
if _missing:
    told = f"a server needs {', '.join(_missing)}, which is not installed"
    raise MachineError(told, fix="pip install 'unetseg[serve]'")
