"Fixtures shared by all tests."
from pathlib import Path
import pytest

DATA = Path(__file__).parents[2]/'shared'/'data'


@pytest.fixture(scope='session')
def shared():
    "The folder of real data beside the project"
    if not DATA.exists(): pytest.skip(f'{DATA} is absent: these tests need the real data that is kept beside the project, not in it')
    return DATA
