"""What a caller's program has to load."""

import subprocess
import sys


def test_the_client_needs_nothing_of_the_server() -> None:
    code = (
        "import polyrank.client, sys\n"
        "heavy = {'torch', 'fastapi', 'starlette', 'sqlalchemy', 'aiohttp', 'uvicorn', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
