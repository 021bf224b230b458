"`python -m benchmarks.gpu` on the processor: every part gives its numbers, and nothing is claimed for cards."
import os, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch

from benchmarks import gpu

root = Path(__file__).parents[1]
CPU = torch.device('cpu')

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "What the script writes where no card is to be seen"
    out = tmp_path_factory.mktemp('gpu')/'gpu.md'
    words = [sys.executable, '-m', 'benchmarks.gpu', '--quick', '--out', out]
    hidden = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    subprocess.run(words, cwd=root, env=hidden, check=True, capture_output=True, timeout=300)
    return out.read_text()

def rows(page, part):
    "The table of a part, as dicts"
    lines = [line.strip('| ').split(' | ') for line in page.split(f'## {part}\n')[1].split('##')[0].splitlines()
             if line.startswith('|')]
    return [dict(zip(lines[0], line)) for line in lines[2:]]

def test_every_part_has_numbers_of_every_precision(page):
    precisions = {numbers.name for numbers in gpu.numbers_of(CPU)}
    for part in gpu.PARTS: assert {row['numbers'] for row in rows(page, part)} == precisions, part
    speeds = [float(value) for part in gpu.PARTS for row in rows(page, part)
              for name, value in row.items() if name.endswith('/s')]
    assert len(speeds) >= 5 and min(speeds) > 0
    assert 'Not measured' not in page

def test_nothing_is_claimed_for_a_card(page):
    assert 'say nothing of any card' in page and 'MB of the card' not in page

def test_float32_is_the_reference_itself(page):
    found = rows(page, 'agreement')[0]
    assert found['numbers'] == 'float32' and float(found['largest difference']) == 0 and found['within 0.01'] == 'yes'

def test_a_map_that_is_off_is_called_so():
    "Two of four pixels are a tenth off, and one of them crosses the threshold"
    theirs = np.array([.1, .45, .9, np.nan])
    found = gpu.difference(theirs + [0, .1, .1, 0], theirs, .5)
    assert found['largest difference'] == pytest.approx(.1) and found['within 0.01'] == 'no'
    assert found['pixels further than 0.01'] == 2 and found['pixels on the other side of the threshold'] == 1

@pytest.mark.parametrize('side', [40, 64, 100])
def test_both_ways_of_reading_see_every_window_once(side):
    "Also one window, and windows that do not fit"
    scene = gpu.toy_scene(100)
    def network(x): return x[:, 1, 0]
    def same(x): return x
    for way in (gpu.mapped_in_turn, gpu.mapped_ahead):
        assert np.array_equal(gpu.mosaic(way, network, gpu.Windows(scene, side, CPU), same), scene[1, 0])

def test_what_found_no_time_or_no_memory_is_named():
    def hungry(device, sizes):
        yield dict(x=1)
        raise torch.OutOfMemoryError('not enough\nmore')
    assert gpu.rows_in_time(hungry, CPU, gpu.QUICK, gpu.Clock(60)) == ([dict(x=1)], 'OutOfMemoryError: not enough')
    late, why = gpu.rows_in_time(gpu.training, CPU, gpu.QUICK, gpu.Clock(0))
    assert late == [] and 'no time left' in '\n'.join(gpu.section('training', late, why))

def test_rounding_of_float32_is_given_back():
    before = torch.backends.cudnn.allow_tf32
    with gpu.Numbers('x', tf32=not before).rounding(): assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before

