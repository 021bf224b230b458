"netCDF files under threads, processes and replacement: right numbers or one sentence, never a crash. Before, the first test ended in a segmentation fault."
import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from landslide_nb.core import CubeError
from landslide_nb.data.cube import open_cube
from landslide_nb.testing import mock_cube


@pytest.fixture(scope='module')
def cubes(tmp_path_factory):
    "Four cubes of compressed blocks, so that reading takes a while"
    folder = tmp_path_factory.mktemp('cubes')
    blocks = dict(zlib=True, complevel=1, chunksizes=(1, 64, 64))
    for k in range(4):
        cube = mock_cube(size=(256, 256), passes=2, seed=k)[['vv', 'vh', 'sat:orbit_state']]
        cube.to_netcdf(folder/f'{k}.nc', engine='netcdf4', encoding=dict(vv=blocks, vh=blocks))
    return folder

THREADS = '''
import sys, threading, time, warnings
from pathlib import Path
from landslide_nb.data.files import read_netcdf
warnings.simplefilter('ignore')
sys.setswitchinterval(1e-5)
folder, end, wrong = Path(sys.argv[1]), time.monotonic() + 8, []

def repeat(do):
    k = 0
    while time.monotonic() < end and not wrong:
        try: do(folder/f'{k % 4}.nc')
        except Exception as e: wrong.append(e)
        k += 1

def read(path): read_netcdf(path).vv.data.compute(scheduler='synchronous')
threads = [threading.Thread(target=repeat, args=(do,)) for do in (read, read, read_netcdf, read_netcdf)]
for o in threads: o.start()
for o in threads: o.join()
if wrong: raise wrong[0]
'''

def test_files_are_opened_in_some_threads_while_others_read(cubes):
    done = subprocess.run([sys.executable, '-c', THREADS, cubes], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

def test_threads_read_what_one_thread_reads(cubes):
    cube = open_cube(cubes/'0.nc')
    alone = cube.vv.compute(scheduler='synchronous').values
    for _ in range(5): np.testing.assert_array_equal(cube.vv.compute(scheduler='threads', num_workers=4).values, alone)

def total(cube): return float(cube.vv.sum(dtype='float64').compute(scheduler='synchronous'))

@pytest.mark.parametrize('start', ['fork', 'spawn'])
@pytest.mark.filterwarnings('ignore:This process.*is multi-threaded:DeprecationWarning')
def test_worker_processes_read_an_opened_cube(start, cubes):
    "While a thread of this process reads as well"
    if start not in multiprocessing.get_all_start_methods(): pytest.skip(f'no {start} on this system')
    cube = open_cube(cubes/'1.nc')
    expected = total(cube)
    with multiprocessing.get_context(start).Pool(2) as pool:
        found = pool.map_async(total, [cube]*4)
        assert total(cube) == pytest.approx(expected)
        assert found.get(timeout=300) == pytest.approx([expected]*4)

def replaced(path, new):
    "A newer file under the same name, put there in one step"
    later = time.time_ns() + 10**9
    shutil.copy(new, path.with_suffix('.part'))
    os.utime(path.with_suffix('.part'), ns=(later, later))
    path.with_suffix('.part').replace(path)

def rewritten(path, new):
    "The same file, written over"
    path.write_bytes(new.read_bytes())
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))

@pytest.mark.parametrize('change', [replaced, rewritten])
def test_a_file_that_changes_is_not_half_of_a_map(change, cubes, tmp_path):
    path = tmp_path/'cube.nc'
    shutil.copy(cubes/'0.nc', path)
    before = open_cube(path)
    first = before.vv[0].compute()
    change(path, cubes/'3.nc')
    with pytest.raises(CubeError, match=r'cube\.nc was changed after it was opened; open it again\.$'): before.vv[1].compute()
    again = open_cube(path)
    assert total(again) == total(open_cube(cubes/'3.nc'))
    assert abs(again.vv[0].compute() - first).max() > 0

def test_a_file_that_is_removed_is_named(cubes, tmp_path):
    path = tmp_path/'cube.nc'
    shutil.copy(cubes/'0.nc', path)
    cube = open_cube(path)
    path.unlink()
    with pytest.raises(CubeError, match=r'cube\.nc was removed after it was opened'): cube.vv[0].compute()

def test_a_cube_is_written_while_it_is_read(cubes, tmp_path):
    "By xarray, in threads; this ended the process as well"
    for k in range(4):
        copy = tmp_path/f'{k}.nc'
        cube = open_cube(cubes/f'{k}.nc').drop_encoding()
        cube.to_netcdf(copy, engine='netcdf4')
        assert total(open_cube(copy)) == total(cube)

def test_locks_that_are_taken_the_other_way_round_end():
    "xarray before 2026.9 takes them in any order: whoever holds one and waits for the other must get it"
    from xarray.backends.locks import HDF5_LOCK, NETCDFC_LOCK
    from landslide_nb.data.netcdf import NETCDF_LOCK
    done = []
    def work(locks):
        for _ in range(300):
            with locks[0]:
                time.sleep(1e-5)
                with locks[-1] if len(locks) > 1 else contextlib.nullcontext(): pass
        done.append(locks)
    orders = [(HDF5_LOCK, NETCDFC_LOCK), (NETCDF_LOCK,), (NETCDF_LOCK,)]
    for first in (orders[0], orders[0][::-1]):
        done.clear()
        threads = [threading.Thread(target=work, args=(o,), daemon=True) for o in (first, *orders[1:])]
        for o in threads: o.start()
        for o in threads: o.join(timeout=300)
        assert len(done) == 3, 'threads wait for each other'

def test_no_handle_stays_open(cubes):
    if not os.path.isdir('/proc/self/fd'): pytest.skip('open files are listed in /proc only')
    cube = open_cube(cubes/'2.nc')
    total(cube)
    held = [os.readlink(f'/proc/self/fd/{o}') for o in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{o}')]
    assert not [o for o in held if o.endswith('2.nc')]

# starts of classic files: eighteen bytes that claim two thousand million dims; attributes; a name without end
CLAIMS = {
    'dims': b'CDF\x02\0\0\0\0\0\0\0\n\x7f\xa5\xa8\x01\0\0',
    'attributes': b'CDF\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0c\x7f\xff\xff\xff\0\0\0\1a\0\0\0\0\0\0\1\0\0\0\1x\0\0\0',
    'a name': b'CDF\x01\0\0\0\0\0\0\0\n\0\0\0\1\x7f\xff\xff\xff',
    'dims in 64 bits': b'CDF\x05' + b'\0'*8 + b'\0\0\0\n' + b'\x7f' + b'\xff'*7 + b'\0'*8,
}

@pytest.mark.parametrize('claim', CLAIMS)
def test_a_small_classic_file_that_claims_much(claim, tmp_path):
    "Found by fuzzing: it took hours, or the memory of the machine"
    path = tmp_path/'bomb.nc'
    path.write_bytes(CLAIMS[claim])
    script = f'from landslide_nb.data.cube import open_cube; open_cube({str(path)!r})'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=300)
    assert 'CubeError: Cannot open' in done.stderr and 'its header is longer than the file' in done.stderr

def test_every_form_of_netcdf_opens(cubes, tmp_path):
    ds = mock_cube()[['vv', 'vh', 'sat:orbit_state']]
    for form in ('NETCDF3_CLASSIC', 'NETCDF3_64BIT', 'NETCDF4', 'NETCDF4_CLASSIC'):
        path = tmp_path/f'{form}.nc'
        ds.to_netcdf(path, format=form)
        np.testing.assert_array_equal(open_cube(path).vv.values, ds.vv.values)
