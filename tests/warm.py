"""Commands in processes that begin with the libraries loaded.

Loading torch, geopandas and their like takes up to 6 seconds of the processor, which the suite would pay for each notebook and
each command. Here one process loads them once, none of this package, and forks for each call: a process of its own, with
the folder, environment, words and output that it was given, which ends as any Python does. Linux only; elsewhere, and for
`cold` calls, a process is started as usual.
"""
import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

# those that change others when they are loaded are not among them:
# fastai (torch), rioxarray and hvplot (xarray, pandas)
LIBRARIES = ('torch', 'torchvision', 'xarray', 'rasterio.warp', 'pyproj', 'geopandas', 'zarr', 'dask.array', 'IPython',
             'matplotlib.pyplot', 'scipy.ndimage', 'sklearn.linear_model', 'sklearn.isotonic', 'holoviews', 'panel')
POSSIBLE = sys.platform == 'linux'


# The process that forks

def load():
    "Everything that takes long to load and starts no thread"
    for name in LIBRARIES:
        with suppress(ImportError): importlib.import_module(name)

def become(call):
    "Make this process the one that was asked for"
    os.setpgid(0, 0)
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), *((p, os.O_WRONLY) for p in call['output'])]):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(call['env'])
    more = call['env'].get('PYTHONPATH', '').split(os.pathsep)
    sys.path[:0] = [path for path in more if path and path not in sys.path]
    os.chdir(call['cwd'])
    sys.argv = call['words']
    tempfile.tempdir = None
    import numpy as np
    import torch
    np.random.seed()
    if 'OMP_NUM_THREADS' in call['env']: torch.set_num_threads(int(call['env']['OMP_NUM_THREADS']))

def ended(child, seconds):
    "The exit status of a child; None: it was still running and was killed with its own children"
    bell = os.pidfd_open(child)
    in_time = select.select([bell], [], [], seconds)[0]
    os.close(bell)
    if not in_time: os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if in_time else None

def answer_calls():
    "Fork for each line of the input; returns in the child, with the function to be called"
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if not child:
            become(call)
            module, _, name = call['entry'].partition(':')
            return getattr(importlib.import_module(module), name)
        print(json.dumps(ended(child, call['timeout'])), flush=True)
    return lambda: 0


# The side of the tests

class Warm:
    "A process that has loaded the libraries and waits for calls"
    def __init__(self):
        env = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_WAIT_POLICY': 'PASSIVE'}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=env)
        self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        assert line, 'the process that forks has ended'
        return json.loads(line)

    def call(self, entry, words, cwd, env, timeout):
        with tempfile.TemporaryDirectory() as folder:
            output = [Path(folder)/'stdout', Path(folder)/'stderr']
            for path in output: path.touch()
            asked = dict(entry=entry, words=words, cwd=str(cwd), env=env, timeout=timeout, output=[*map(str, output)])
            self.process.stdin.write(json.dumps(asked) + '\n')
            self.process.stdin.flush()
            status = self.hear()
            said = [path.read_text() for path in output]
        if status is None: raise subprocess.TimeoutExpired(words, timeout, *said)
        return subprocess.CompletedProcess(words, status, *said)

_warm = []

def called(
    entry,      # 'module:function' of the command
    *words,     # its name or path, then its arguments
    cwd,
    env,        # the whole environment
    timeout=600,
):
    "As `subprocess.run` of a command with its output captured, in a process with the libraries loaded"
    if not _warm: _warm.append(Warm())
    return _warm[0].call(entry, [*map(str, words)], cwd, env, timeout)

def main():
    sys.path.pop(0) # the folder of the tests
    load()
    gc.collect()
    gc.freeze() # a collection in a child would touch, and so copy, every page
    return answer_calls()

class Ending:
    "The end of a process as Python ends it, but for the taking apart of every library"
    status = 0
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        if kind is SystemExit: self.status = error.code
        elif kind is not None:
            sys.excepthook(kind, error, trace)
            self.status = 1
        if isinstance(self.status, str):
            print(self.status, file=sys.stderr)
            self.status = 1
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status or 0)

if __name__ == '__main__':
    function = main()
    with Ending() as ending: ending.status = function() # fastcore looks whether a script calls its command
