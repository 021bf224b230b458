"Mapping stands alone: it needs neither fastai nor the simulator, so that a small machine can map what another one trained."
import json, subprocess, sys

BLOCKED = """
import sys
for name in ('fastai', 'landslide_nb.data.simulate'): sys.modules[name] = None # an import of it fails
"""
MAP = """
from landslide_nb.mapping.mapping import map_cube
from landslide_nb.testing import mock_cube
map_cube(mock_cube((160, 200)), 'base', sys.argv[1], event='hokkaido', progress=False)
"""

def in_new_process(code, *words):
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', BLOCKED + code, *map(str, words)],
                          capture_output=True, text=True, timeout=300)

def test_the_block_blocks():
    for name in ('fastai.vision.all', 'landslide_nb.data.simulate'):
        out = in_new_process(f'import {name}')
        assert out.returncode == 1
        assert 'ModuleNotFoundError' in out.stderr

def test_a_cube_is_mapped_without_fastai_and_simulator(tmp_path):
    out = in_new_process(MAP, tmp_path/'run')
    assert out.returncode == 0, out.stderr[-2000:]
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert 'nulls' in metrics, 'the null check was made as well'
    assert (tmp_path/'run'/'report.html').exists()

MAP_TRACKS = """
from landslide_nb.weights.tracks import map_tracks
from landslide_nb.testing import mock_cube
map_tracks(mock_cube((96, 128)), 'base', sys.argv[1], event='hokkaido', progress=False)
"""

def test_several_tracks_are_fused_without_fastai_and_simulator(tmp_path):
    out = in_new_process(MAP_TRACKS, tmp_path/'run')
    assert out.returncode == 0, out.stderr[-2000:]
    metrics = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert [one['track'] for one in metrics['fusion']['tracks']] == ['ascending', 'descending']
    assert sorted(path.name for path in (tmp_path/'run'/'tracks').iterdir()) == ['ascending', 'descending']

COMMAND = """
from landslide_nb.cli import main
sys.exit(main(sys.argv[1:]))
"""

def test_a_command_that_needs_more_says_so_in_one_sentence(tmp_path):
    "And a map is made by the command all the same"
    out = in_new_process(COMMAND, 'finetune', 'demo_a', '--out', tmp_path/'model.safetensors')
    assert out.returncode == 1
    assert out.stderr.strip().splitlines()[-1].startswith('landslide-nb: this command needs the package fastai, which is not installed')
    assert 'Traceback' not in out.stderr
