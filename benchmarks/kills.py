"""Kill every step at random moments, and see that nothing is lost: `python -m benchmarks.kills [--times 20] [STEP ...]`

A step is done once undisturbed, in a process of its own. Then it is done again and again in new folders, and each time
its process is killed (SIGKILL): by the clock, or just before one of its file operations, both drawn from a seed (each
statement of SQLite is one, too). Some are killed twice. After each kill whatever is visible under its final name must be
whole. Then the same call is made once more and left alone: it must end with the undisturbed result, and the folder and its
parent must hold the same files as after the undisturbed call, hidden ones included. A call that finds its result already
whole may refuse to write it again.

The cases after the kills disturb the steps in other ways: a full disk, a folder that may not be written, a clock that was
set back, two processes at once, a killed worker, too little memory.

Everything is small and made up; nothing is fetched but from servers on this machine that play Zenodo and a catalogue of
passes.
"""
import argparse, hashlib, io, json, multiprocessing, os, platform, random, re, resource, shutil, signal, socket, sqlite3
import subprocess, sys, tempfile, time, traceback, warnings, zipfile
from collections.abc import Callable
from contextlib import closing, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1') # before torch: threads do not survive a fork
os.environ.setdefault('MPLBACKEND', 'agg')

HERE = Path(__file__).parent
CAP_DAC = 0b110 # the capabilities by which root writes where it may not
FORK = multiprocessing.get_context('fork')
PATIENCE = 300 # seconds that an undisturbed call may take

# ---- the steps

def small_chips(folder):
    "Chips of a made-up landscape, split in space"
    from landslide_nb.data.chips import make_chips
    from landslide_nb.data.split import split_chips
    from landslide_nb.testing import mock_landscape
    chips = make_chips(mock_landscape((256, 256)), folder, size=32, step=32)
    return split_chips(chips, block=2, seed=0)

def small_model(path, width=4, levels=2):
    "An untrained network with all that a model file needs"
    from landslide_nb.core import set_seed
    from landslide_nb.learn.models import save_model
    from landslide_nb.learn.networks import build_model
    set_seed(1)
    stats = dict(mean=[-9., -15.], std=[3., 3.], change_mean=[0., 0.], change_std=[2., 2.])
    spec = dict(channels=['vv', 'vh'], change=True, stats=stats, size=128)
    meta = dict(input=spec, calibration=dict(scale=1.5, bias=2., threshold=.5))
    return save_model(build_model(arch='unet', stage=2, width=width, levels=levels).eval(), path, meta)

NAME = 'hokkaido_japan' # of the published cube that is played

def zenodo_files():
    "A record with a zip of a Zarr store, as JSON and bytes"
    from landslide_nb.download import RECORD
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr(zipfile.ZipInfo(f'{NAME}.zarr/.zgroup'), '{"zarr_format": 2}')
        for k in range(12): z.writestr(zipfile.ZipInfo(f'{NAME}.zarr/vv/{k}.0.0'), random.Random(k).randbytes(200_000))
    body = out.getvalue()
    entry = dict(key=f'{NAME}.zip', size=len(body), checksum=f'md5:{hashlib.md5(body).hexdigest()}')
    record = json.dumps(dict(files=[entry])).encode()
    return {f'/api/records/{RECORD}': record, f'/record/{RECORD}/files/{NAME}.zip': body}

class Zenodo(BaseHTTPRequestHandler):
    "Answers slowly enough to be cut off, and from any byte on"
    files = {}

    def log_message(self, *_):
        "Say nothing"

    def do_GET(self):
        "Answer with a file, or with the rest of it"
        body, asked = self.files.get(self.path), self.headers.get('Range')
        start = int(asked[6:-1]) if asked else 0
        if body is None: return self.send_error(404)
        if start >= len(body): return self.send_error(416)
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(body)-1}/{len(body)}')
        self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        self.send_slowly(body[start:])

    def send_slowly(self, body):
        "Send bytes piece by piece"
        try:
            for k in range(0, len(body), 2**16):
                self.wfile.write(body[k:k+2**16])
                time.sleep(.003)
        except OSError: pass # the one who asked was killed

def serve_zenodo(pipe):
    "Play Zenodo, and say at which port"
    Zenodo.files = zenodo_files()
    server = ThreadingHTTPServer(('127.0.0.1', 0), Zenodo)
    server.daemon_threads = True
    pipe.send(server.server_port)
    server.serve_forever()

@contextmanager
def served(play, *args):
    "A server in a process of its own; what it sends first is where it answers"
    here, there = FORK.Pipe()
    server = FORK.Process(target=play, args=(there, *args), daemon=True)
    server.start()
    try: yield here.recv()
    finally:
        server.kill()
        server.join()

@contextmanager
def zenodo(inputs):
    "A Zenodo on this machine, in a process of its own"
    with served(serve_zenodo) as port:
        (inputs/'url').write_text(f'http://127.0.0.1:{port}')
        yield

def fetch(inputs, home):
    "Fetch an event"
    from landslide_nb.download import fetch_event
    os.environ['NO_PROXY'] = '127.0.0.1'
    fetch_event('hokkaido', home, (inputs/'url').read_text())

def save_cube(inputs, home):
    "Write a cube"
    from landslide_nb.data.cube import open_cube, save_cube
    from landslide_nb.testing import mock_cube
    save_cube(open_cube(mock_cube((64, 96))), home/'cube.zarr')

def make_chips(inputs, home):
    "Cut a landscape into chips"
    from landslide_nb.data.chips import make_chips
    from landslide_nb.testing import mock_landscape
    make_chips(mock_landscape((256, 256)), home/'chips', size=32, step=32)

def split_chips(inputs, home):
    "Split chips in space"
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.data.split import split_chips
    split_chips(ChipSet(home/'chips'), block=2, seed=0)

def finetune(inputs, home):
    "Train a small network, calibrate it and write it"
    from landslide_nb.data.chips import ChipSet
    from landslide_nb.learn.data import finetune_dls
    from landslide_nb.learn.finetune import calibrate_learner, finetune_learner
    from landslide_nb.learn.training import export_learner
    dls = finetune_dls(ChipSet(inputs/'chips'), 8, seed=0, bs=4, epoch_chips=32)
    learn = finetune_learner(dls, seed=0, width=4, levels=2)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2)
    export_learner(calibrate_learner(learn), home/'model.safetensors')

def prepare_place(inputs):
    "An archive of a place, and a model"
    import pandas as pd
    from landslide_nb.data.landscape import REGIONS
    from landslide_nb.data.simulate import simulate_archive
    region = next(iter(REGIONS.values()))
    cube = simulate_archive(region, 91, 128, years=1, passes=2, orbits=('ascending',))
    pd.to_pickle(cube.load(), inputs/'cube.pickle')
    small_model(inputs/'model.safetensors')

def adapt(inputs, home):
    "Adapt a model to a place"
    import pandas as pd
    from landslide_nb.data.pair import make_pair
    from landslide_nb.weights.adapt import adapt_model
    cube = pd.read_pickle(inputs/'cube.pickle')
    short = dict(scenes=2, epochs=1, epoch_chips=16)
    adapt_model(cube, make_pair(cube, passes=1), home/'here.safetensors', inputs/'model.safetensors', **short)

def study(workers):
    "A step that does a small study with so many workers"
    def experiment(inputs, home):
        "Do the study"
        from landslide_nb.study.experiment import run_experiment
        from landslide_nb.study.protocol import ExperimentSpec
        spec = dict(scene=512, size=32, pretrain_size=16, block=1, width=4, epochs=1, epoch_chips=16,
            pretrain_epochs=1, pretrain_epoch_chips=16, budgets=(2,), seeds=2, pretrain=('none', 'demo_a'))
        run_experiment(ExperimentSpec(**spec), home/'study', bar=False, workers=workers)
    return experiment

def prepare_map(inputs):
    "A cube and a model"
    from landslide_nb.data.cube import open_cube, save_cube
    from landslide_nb.testing import mock_cube
    save_cube(open_cube(mock_cube((200, 240), passes=3)), inputs/'cube.zarr')
    small_model(inputs/'model.safetensors')

def map_command(inputs, home):
    "Map a cube by the command"
    from landslide_nb.cli import main
    where = ['--model', inputs/'model.safetensors', '--out', home/'run', '--tile', 64]
    code = main([str(word) for word in ('map', inputs/'cube.zarr', *where)])
    if code: raise Refused # the sentence was printed

def map_cluster(inputs, home):
    "Map a cube with a cluster"
    from distributed import Client, LocalCluster
    from landslide_nb.mapping.mapping import map_cube
    from landslide_nb.data.cube import open_cube
    few = dict(n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=tempfile.gettempdir())
    with LocalCluster(**few) as cluster, Client(cluster):
        ready()
        map_cube(open_cube(inputs/'cube.zarr').chunk(y=100, x=100), inputs/'model.safetensors', home/'run',
                 tile=64, progress=False)

def prepare_run(inputs):
    "A map, what a person decided about its chips, and one decision more"
    import pandas as pd
    from landslide_nb.data.cube import open_cube
    from landslide_nb.labelling.labels import write_labels
    from landslide_nb.labelling.suggest import answer_by_truth, suggest_chips
    from landslide_nb.mapping.mapping import map_cube
    prepare_map(inputs)
    cube = open_cube(inputs/'cube.zarr')
    map_cube(cube, inputs/'model.safetensors', inputs/'run', tile=64, progress=False)
    chips = suggest_chips(inputs/'run', 4)
    first, last, every = (answer_by_truth(o, cube.landslides) for o in (chips[:2], chips[2:3], chips))
    write_labels(first, inputs/'labels.gpkg')
    write_labels(every, inputs/'every.gpkg')
    pd.to_pickle(last, inputs/'decision.pickle')

def copied_run(inputs, home):
    "Begin with a map"
    shutil.copytree(inputs/'run', home/'run')

def labelled_run(inputs, home):
    "Begin with a map and what a person decided about it"
    copied_run(inputs, home)
    shutil.copy(inputs/'labels.gpkg', home/'run'/'labels.gpkg')

def save_labels(inputs, home):
    "Save one decision more"
    import pandas as pd
    from landslide_nb.labelling.labels import save_decisions
    save_decisions(home/'run', pd.read_pickle(inputs/'decision.pickle'))

def label_next(inputs, home):
    "Ask by the command for the next chips to label"
    from landslide_nb.cli import main
    if main(['label', str(home/'run'), '--next', '2']): raise Refused

def turn(inputs, home):
    "Learn from labels, and map anew"
    from landslide_nb.labelling.turn import TurnPlan, take_turn
    take_turn(inputs/'run', inputs/'every.gpkg', home/'run', TurnPlan(str(inputs/'model.safetensors'), epochs=1))

def archive(folder):
    "A catalogue of simulated passes, and the words that ask for a cube of its place; the server adds its address"
    from landslide_nb.data.simulate import simulate_archive
    from landslide_nb.radar_items import write_catalog
    cube = simulate_archive('demo_a', 7, 96, 0)
    write_catalog([cube], folder)
    corners = cube.rio.transform_bounds('EPSG:4326')
    box = [f'{corner + inwards:.6f}' for corner, inwards in zip(corners, (.0005, .0005, -.0005, -.0005))]
    words = ['--bbox', *box, '--start', '2018-09-05', '--end', '2018-09-07', '--archive', 'none', '--dem', 'none']
    (folder/'words.json').write_text(json.dumps(words))

def serve_archive(pipe, folder):
    "Play a catalogue of passes, and say where"
    from landslide_nb.loopback import serve_catalog
    with serve_catalog(folder) as api:
        def a_moment(request):
            "Wait before a picture is sent: time to be cut off in"
            if '.tiff' in request.path: time.sleep(.01)
        api.faults.append(a_moment)
        pipe.send(api.url)
        signal.pause()

@contextmanager
def catalogue(inputs):
    "A STAC server on this machine, in a process of its own"
    folder = inputs/'archive'
    folder.mkdir()
    in_child(archive, folder)
    with served(serve_archive, folder) as url:
        (inputs/'url').write_text(url)
        yield

def build_command(inputs, home):
    "Build a cube by the command"
    from landslide_nb.cli import main
    os.environ['NO_PROXY'] = '127.0.0.1'
    words = json.loads((inputs/'archive'/'words.json').read_text())
    code = main(['build', '--catalog', (inputs/'url').read_text(), *words, '--out', str(home/'cube.zarr')])
    if code: raise Refused

SAVED = {'Polygons, GPKG': 'polygons.gpkg', 'Polygons, GeoJSON': 'polygons.geojson', 'Polygons, KML': 'polygons.kml',
         'Cells, CSV': 'cells.csv', 'View, PNG': 'view.png'} # label of a button of the page -> name of the file

def wait_for(port):
    "Until somebody listens"
    for _ in range(600):
        try: return socket.create_connection(('127.0.0.1', port), 1).close()
        except OSError: time.sleep(.1)

def free_port():
    "A port at which nobody listens"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def add_buttons(content, buttons):
    "Note the buttons for files that a message brings; whether all are known by now"
    from benchmarks.app import find
    for label in SAVED:
        def has_label(o):
            "Whether this is the button"
            return isinstance(o.get('attributes'), dict) and o['attributes'].get('label') == label
        one = find(content, has_label)
        if one and 'id' in one: buttons[label] = one['id']
    return len(buttons) == len(SAVED)

async def pressed(visitor, button):
    "The bytes of the file that a button brings"
    from base64 import b64decode
    from benchmarks.app import find
    def sent(o):
        "Whether this holds the file"
        return o.get('attr') == 'data' and o.get('new') and o['model']['id'] == button
    change = dict(kind='ModelChanged', model=dict(id=button), attr='clicks', new=1)
    await visitor.send('PATCH-DOC', dict(events=[change]))
    patch = await visitor.until('PATCH-DOC', lambda content: find(content, sent))
    return b64decode(find(patch, sent)['new'].partition('base64,')[2])

async def save_all(port, folder):
    "Come as a visitor, press each button for a file, and keep what comes, as a browser does: whole or not at all"
    from types import SimpleNamespace
    from benchmarks.app import Visitor
    from landslide_nb.core import atomic
    visitor = await Visitor.open(SimpleNamespace(port=port))
    buttons = {}
    def complete(content):
        "Whether the last button is known with this message"
        return add_buttons(content, buttons)
    if not complete(visitor.doc): await visitor.until('PATCH-DOC', complete)
    for label, button in buttons.items():
        body = await pressed(visitor, button)
        with atomic(folder/SAVED[label]) as tmp: tmp.write_bytes(body)

def download(inputs, home):
    "The page and its visitor in one process: the kill ends both"
    import asyncio
    from landslide_nb.app import serve
    port = free_port()
    (home/'saved').mkdir(exist_ok=True)
    server = serve(home, port=port, show=False, threaded=True)
    wait_for(port)
    ready()
    asyncio.run(save_all(port, home/'saved'))
    server.stop()

def save_model(inputs, home):
    "Write a model"
    small_model(home/'model.safetensors', width=16, levels=4)

class Refused(Exception): "A command ended with exit code 1, and so with one sentence"

def nothing(*_):
    "Do nothing"

@dataclass(frozen=True)
class Step:
    "What is killed: a call, what it needs, and what it may leave"
    name:str
    call:Callable               # of inputs and home: what a person calls
    prepare:Callable=nothing    # of inputs
    begin:Callable=nothing      # of inputs and home: what is there before the call
    around:Callable|None=None   # context in which all calls of the step are made
    wholes:tuple=()             # patterns of folders that must appear whole
    passing:tuple=()            # patterns of files that are there only for a while, while the work goes on
    cluster:bool=False          # takes long to begin

def chips_before(inputs, home):
    "Begin with chips"
    make_chips(inputs, home)

def prepare_chips(inputs):
    "Chips, split in space"
    small_chips(inputs/'chips')

JOURNAL = 'run/labels.gpkg-journal' # of SQLite; who opens the file to write undoes the half change
RUN = dict(prepare=prepare_map, wholes=('run',))
LABELLED = dict(prepare=prepare_run, passing=(JOURNAL,))
STUDY = dict(wholes=('study/chips/*', 'study/runs/*'), passing=('study/stage1/*.npy',))
STEPS = {step.name: step for step in (
    Step('fetch', fetch, around=zenodo, wholes=(f'{NAME}.zarr',)),
    Step('save_cube', save_cube, wholes=('cube.zarr',)),
    Step('make_chips', make_chips, wholes=('chips',)),
    Step('split_chips', split_chips, begin=chips_before),
    Step('save_model', save_model),
    Step('finetune', finetune, prepare=prepare_chips),
    Step('adapt', adapt, prepare=prepare_place),
    Step('experiment', study(1), **STUDY),
    Step('experiment_workers', study(2), **STUDY),
    Step('map', map_command, **RUN),
    Step('first_label', save_labels, begin=copied_run, **LABELLED),
    Step('save_labels', save_labels, begin=labelled_run, **LABELLED),
    Step('label_next', label_next, begin=labelled_run, **LABELLED),
    Step('build', build_command, around=catalogue, wholes=('cube.zarr',)),
    Step('download', download, prepare=prepare_run, begin=copied_run, cluster=True),
    Step('turn', turn, prepare=prepare_run, wholes=('run',)),
    Step('map_cluster', map_cluster, cluster=True, **RUN),
)}

# ---- a process of its own, with a killer inside or outside

_pipe = None

def ready():
    "Say to the parent that the work itself begins now"
    _pipe.send('ready')

def watch(home, at, act):
    "Do something just before the file operation number `at` below a folder; returns how many there were, as a list"
    counted, below = [0], str(home)
    kinds = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate', 'os.chmod', 'shutil.rmtree')
    def count(_=None):
        "Count one more, and act when it is its turn"
        counted[0] += 1
        if counted[0] == at: act()
    def hook(event, args):
        "Count what happens below the folder"
        if event in kinds and str(args[0]).startswith(below): count()
    connect = sqlite3.connect
    def traced(*args, **options):
        "Open a database whose statements are counted"
        db = connect(*args, **options)
        db.set_trace_callback(count) # each statement is one
        return db
    sqlite3.connect = traced # in this process alone
    sys.addaudithook(hook)
    return counted

def kill_self():
    "End this process at once"
    os.kill(os.getpid(), signal.SIGKILL)

def obey_permissions():
    "Give up the right of root to write where it may not"
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32*2)(0x20080522, 0)
    sets = (ctypes.c_uint32*6)() # effective, permitted, inheritable; twice
    if libc.capget(header, sets): raise OSError(ctypes.get_errno(), 'capget')
    for k in range(3): sets[k] &= ~CAP_DAC
    if libc.capset(header, sets): raise OSError(ctypes.get_errno(), 'capset')

def quiet_call(function, args):
    "What a function printed and how it ended: done, said (a sentence) or crashed"
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from landslide_nb.core import LandslideError
        try: result, ended = function(*args), 'done'
        except LandslideError as e: result, ended = str(e), 'said'
        except Refused: result, ended = out.getvalue().strip().splitlines()[-1], 'said'
        except BaseException as e:
            result, ended = f'{type(e).__name__}: {e}'.splitlines()[0], 'crashed'
            out.write(traceback.format_exc())
    return ended, result, out.getvalue()

@dataclass(frozen=True)
class Terms:
    "Under which a child process works"
    at:int=0                 # number of the file operation at which `act` is done; 0: never
    act:Callable=kill_self
    memory:int=0             # bytes that it may take in addition; 0: any
    rights:bool=True         # False: permissions hold, also for root

def take_at_most(memory):
    "Let this process take so many bytes more and no others"
    have = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + memory,)*2)

def child(pipe, function, args, terms, tmp):
    "Do what a child process is for, send how it ended, and end"
    global _pipe
    _pipe = pipe
    tempfile.tempdir = os.environ['TMPDIR'] = str(tmp)
    import torch
    torch.set_num_threads(1)
    if not terms.rights: obey_permissions()
    if terms.memory: take_at_most(terms.memory)
    counted = watch(args[-1], terms.at, terms.act)
    ended, result, printed = quiet_call(function, args)
    pipe.send((ended, result, printed[-3000:], counted[0]))
    pipe.close()
    os._exit(0)

@dataclass
class Ending:
    "How a call ended"
    how:str           # done | said | crashed | killed
    result:object=None
    printed:str=''
    operations:int=0  # on files
    seconds:float=0.  # since the work itself began

class Child:
    "A function in a forked process"
    def __init__(self, function, *args, terms=Terms(), tmp=None, cluster=False):
        "Begin at once"
        self.pipe, there = FORK.Pipe()
        tmp = tmp or Path(tempfile.gettempdir())
        self.process = FORK.Process(target=child, args=(there, function, args, terms, tmp))
        self.process.start()
        there.close()
        self.began = time.perf_counter()
        if cluster: self.wait_ready()

    def wait_ready(self):
        "Wait until the work itself begins"
        if self.pipe.poll(PATIENCE): self.first = self._receive()
        self.began = time.perf_counter()

    def _receive(self):
        "What the child sends next; None: it has ended without a word"
        try: return self.pipe.recv()
        except EOFError: return None

    def end(self, after=None): # seconds until it is killed; None: let it end
        "Wait for the end or bring it about, and say how it was"
        import psutil
        first = getattr(self, 'first', None)
        message = first if isinstance(first, tuple) else None
        if message is None and self.pipe.poll(PATIENCE if after is None else after): message = self._receive()
        if message == 'ready': return self.end(after)
        seconds = time.perf_counter() - self.began
        try: workers = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess: workers = []
        if message is None: self.process.kill()
        self.process.join(60)
        if self.process.is_alive(): self.process.kill()
        for left in psutil.wait_procs(workers, timeout=60)[1]: left.kill()
        self.pipe.close()
        if message is None: return Ending('killed', seconds=seconds)
        return Ending(*message, seconds=seconds)

def in_child(function, *args, **options):
    "What a function returns in a process of its own"
    end = Child(function, *args, **options).end()
    if end.how == 'done': return end.result
    name = getattr(function, '__name__', function)
    raise RuntimeError(f'{name} {end.how}: {end.result}\n{end.printed}')

# ---- what lies in a folder, free of clocks

CLOCKS = ('minutes', 'seconds', 'created', 'updated', 'datetime_made', 'written')

def timeless(value):
    "JSON values without those that a clock gave"
    if isinstance(value, dict): return {k: timeless(v) for k, v in value.items() if k not in CLOCKS}
    if isinstance(value, list): return [timeless(v) for v in value]
    return value

@contextmanager
def rolled_back(path):
    "A GeoPackage, or a copy of it in which SQLite has undone the change that its journal tells of"
    journal = path.with_name(f'{path.name}-journal')
    if not journal.exists():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        shutil.copy(journal, folder)
        with closing(sqlite3.connect(copy)) as db: db.execute('SELECT count(*) FROM sqlite_master').fetchone()
        yield copy

def content(path):
    "A file as text or bytes that two equal results share"
    if path.suffix == '.safetensors':
        from safetensors import safe_open
        with safe_open(path, 'np') as f:
            header = {k: timeless(json.loads(v)) for k, v in (f.metadata() or {}).items()}
            return repr(header) + repr([(k, f.get_tensor(k).tobytes()) for k in sorted(f.keys())])
    if path.suffix == '.parquet':
        import pyarrow.parquet
        table = pyarrow.parquet.read_table(path)
        keep = [name for name in table.column_names if name not in CLOCKS]
        return repr(table.select(keep).to_pydict())
    if path.suffix == '.gpkg':
        import geopandas
        with rolled_back(path) as whole:
            layers = sorted(geopandas.list_layers(whole).name)
            return repr([(layer, geopandas.read_file(whole, layer=layer).to_wkt().to_csv()) for layer in layers])
    if path.suffix == '.json': return repr(timeless(json.loads(path.read_text())))
    if path.name == '.zmetadata': # zarr 3.0.8 lists the arrays in any order
        return json.dumps(json.loads(path.read_text()), sort_keys=True)
    return path.read_bytes()

def digest(path):
    "A short sum of what a file holds, or what else it is"
    if path.is_dir(): return 'folder'
    try: found = content(path)
    except Exception as e: return f'unreadable: {type(e).__name__} {e}'[:100]
    if isinstance(found, str): found = found.encode()
    return hashlib.blake2b(found, digest_size=12).hexdigest()

def listing(home):
    "name -> digest of everything below a folder, hidden or not, but for the temporary folder of the system"
    return {str(p.relative_to(home)): digest(p) for p in sorted(home.rglob('*'))}

def hidden(name):
    "Whether a file is hidden, or lies in a hidden folder"
    return any(part.startswith('.') for part in Path(name).parts)

def passing(step, name):
    "Whether a file is there only for a while"
    return any(Path(name).match(pattern) for pattern in step.passing)

def roots(names):
    "Names that lie in none of the others"
    names = set(names)
    return sorted(n for n in names if not any(str(parent) in names for parent in Path(n).parents))

def half_made(step, found, wanted, before):
    "Sentences about what is visible under its final name and is not whole"
    for name, digest in found.items():
        if name.endswith('.part') or passing(step, name) or hidden(name): continue
        if name not in wanted: yield f'{name} is not part of the result'
        elif digest not in (wanted[name], before.get(name)): yield f'{name} differs or is {digest[:40]}'
    for name in found:
        if hidden(name) or not any(Path(name).match(pattern) for pattern in step.wholes): continue
        inside = {other for other in found if other.startswith(f'{name}/')}
        should = {other for other in wanted if other.startswith(f'{name}/')}
        if inside and inside != should: yield f'{name} holds {len(inside)} of {len(should)} files'

# ---- the campaign

@dataclass
class Bench:
    "A step with its inputs and its undisturbed result"
    step:Step
    work:Path
    inputs:Path=None
    before:dict=None      # listing before any call
    wanted:dict=None      # listing after the undisturbed call
    seconds:float=0.      # that it took
    operations:int=0      # on files
    bytes:int=0           # of the result
    begun:int=0           # homes

    def __post_init__(self):
        "Make the folders"
        self.inputs = self.work/'inputs'
        self.inputs.mkdir()
        (self.work/'tmp').mkdir()
        for folder in (self.work, self.work/'tmp'): folder.chmod(0o777)

    def home(self):
        "A new folder with what is there before the call"
        self.begun += 1
        parent = self.work/f'{self.begun}'
        home = parent/'home'
        home.mkdir(parents=True)
        for folder in (parent, home): folder.chmod(0o777)
        in_child(self.step.begin, self.inputs, home, tmp=self.work/'tmp')
        return home

    def call(self, home, **terms):
        "The call of the step, begun, under these terms"
        place = dict(tmp=self.work/'tmp', cluster=self.step.cluster)
        return Child(self.step.call, self.inputs, home, terms=Terms(**terms), **place)

    def listing(self, home):
        "What lies in a home and beside it"
        return in_child(listing, home.parent)

    def half(self, home):
        "Sentences about what is half made"
        found = half_made(self.step, self.listing(home), self.wanted, self.before)
        return [f'half made: {sentence}' for sentence in found]

    def undisturbed(self):
        "Prepare the step and do it twice; the result must be the same"
        in_child(self.step.prepare, self.inputs, tmp=self.work/'tmp')
        for _ in range(2): # the second one is faster: what is loaded late is loaded
            home = self.home()
            self.before = self.listing(home)
            end = self.call(home).end()
            if end.how != 'done':
                raise RuntimeError(f'{self.step.name} undisturbed {end.how}: {end.result}\n{end.printed}')
            once, self.wanted = self.wanted, self.listing(home)
        if once != self.wanted:
            odd = [n for n in {*once, *self.wanted} if once.get(n) != self.wanted.get(n)]
            raise RuntimeError(f'{self.step.name} does not repeat itself: {odd[:5]}')
        self.seconds, self.operations = end.seconds, end.operations
        self.bytes = listing_bytes(home)

    def left_in_tmp(self):
        "What all calls left in the temporary folder of the system"
        return sorted(p.name for p in (self.work/'tmp').iterdir())

    def finish(self, home, **terms):
        "Call once more, undisturbed; returns sentences about what is not as it should be"
        end = self.call(home, **terms).end()
        found = self.listing(home)
        problems = []
        whole = all(found.get(name) == digest for name, digest in self.wanted.items())
        if end.how == 'crashed' or end.how == 'killed' or (end.how == 'said' and not whole):
            problems.append(f'next call {end.how}: {end.result}')
        problems += [f'different: {n}' for n in self.wanted if found.get(n) != self.wanted[n]]
        problems += [f'stray: {n}' for n in roots(set(found) - set(self.wanted))]
        return problems

@dataclass
class Tally:
    "What was killed, and what was wrong then"
    kills:int=0
    clock:int=0
    operation:int=0
    again:int=0    # killed a second time before the last call
    late:int=0     # had ended before it was killed
    problems:list=field(default_factory=list) # (moment, sentence)

def killed_once(bench, home, rng, by_clock):
    "Kill one call; returns the moment, or None if it had ended before"
    if by_clock:
        after = rng.uniform(0, bench.seconds)
        end = bench.call(home).end(after)
        moment = f'after {after:.3f} s'
    else:
        at = rng.randint(1, max(1, bench.operations))
        end = bench.call(home, at=at).end()
        if end.how == 'crashed' and end.result is None: end.how = 'killed'
        moment = f'before file operation {at} of {bench.operations}'
    return moment if end.how == 'killed' else None

def kill_round(bench, rng, by_clock, tally):
    "Kill a call once or twice in a new folder, then finish it; whether a kill was in time"
    home = bench.home()
    moments = []
    for _ in range(2 if rng.random() < .3 else 1):
        moment = killed_once(bench, home, rng, by_clock)
        if moment is None: tally.late += 1
        else: moments.append(moment)
        tally.problems += [(moment, sentence) for sentence in bench.half(home)]
    tally.problems += [(' and '.join(moments), problem) for problem in bench.finish(home)]
    tally.kills += len(moments)
    tally.again += len(moments) == 2
    if by_clock: tally.clock += len(moments)
    else: tally.operation += len(moments)
    shutil.rmtree(home.parent)
    return bool(moments)

def kill_step(bench, times, seed):
    "Kill a step again and again, by the clock and by its file operations in turn"
    tally, rng = Tally(), random.Random(f'{seed} {bench.step.name}')
    for k in range(times):
        for _ in range(3): # a call that had ended is called again
            if kill_round(bench, rng, k % 2 == 0, tally): break
    return tally

# ---- other disturbances

def ends_in_a_sentence(bench, home, end):
    "What is wrong after a call that could not succeed, but for its leftovers"
    if end.how != 'said': yield f'{end.how} instead of a sentence: {end.result}'
    yield from bench.half(home)

def mounted(place, size):
    "Mount a disk of so many bytes; says why it cannot"
    if os.geteuid(): return 'only root can mount a small disk'
    words = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(place)]
    found = subprocess.run(words, capture_output=True, text=True)
    return found.stderr.strip() if found.returncode else ''

def resized(place, size):
    "Give a small disk another size"
    subprocess.run(['mount', '-o', f'remount,size={size}', str(place)], check=True)

def used_bytes(place):
    "What files take of a small disk, in whole pages"
    disk = os.statvfs(place)
    return (disk.f_blocks - disk.f_bfree)*disk.f_frsize

def full_disk(bench):
    "A disk that is too small by half of the result"
    home = bench.home()
    began = listing_bytes(home)
    shutil.move(home, home.parent/'before')
    home.mkdir()
    why = mounted(home, '1g')
    if why: return f'skipped: {why}'
    try:
        shutil.copytree(home.parent/'before', home, dirs_exist_ok=True)
        shutil.rmtree(home.parent/'before')
        resized(home, used_bytes(home) + max(2**12, int(.5*(bench.bytes - began))))
        problems = list(ends_in_a_sentence(bench, home, bench.call(home).end()))
        resized(home, '1g')
        return problems + bench.finish(home)
    finally: subprocess.run(['umount', '-l', str(home)], check=True)

def listing_bytes(home):
    "What all files below a folder hold"
    return sum(p.stat().st_size for p in home.rglob('*') if p.is_file())

def set_mode(home, mode):
    "Set the permissions of a folder and of all folders in it"
    for folder in (home, *(p for p in home.rglob('*') if p.is_dir())): folder.chmod(mode)

def read_only_folder(bench):
    "A folder that may not be written"
    home = bench.home()
    before = bench.listing(home)
    set_mode(home, 0o555)
    end = bench.call(home, rights=False).end()
    problems = list(ends_in_a_sentence(bench, home, end))
    if bench.listing(home) != before: problems.append('the folder was changed')
    set_mode(home, 0o777)
    return problems + bench.finish(home)

def permission_lost(bench):
    "A folder that may not be written any more, from the middle of the call on"
    home = bench.home()
    def lose():
        "Take the permission away"
        set_mode(home, 0o555)
    end = bench.call(home, at=max(1, bench.operations//2), act=lose, rights=False).end()
    problems = []
    if end.how != 'done': problems = list(ends_in_a_sentence(bench, home, end)) # what was opened before may be written
    set_mode(home, 0o777)
    return problems + bench.finish(home)

def clock_set_back(bench):
    "Files of a killed call that seem to be of long ago or of the future"
    problems = []
    for year in (1971, 2099): # what lies there is far too old, or from the future
        home = bench.home()
        bench.call(home, at=max(1, bench.operations//2)).end()
        when = datetime(year, 1, 1).timestamp()
        for path in home.rglob('*'): os.utime(path, (when, when))
        problems += bench.finish(home)
    return problems

def two_calls(bench, home):
    "Call twice at the same time; sentences about an end without a result and without a sentence"
    both = [bench.call(home), bench.call(home)]
    ends = [one.end() for one in both]
    return [f'{end.how}: {end.result}' for end in ends if end.how not in ('done', 'said')]

def two_at_once(bench):
    "Two calls on one folder at the same time"
    home = bench.home()
    problems = two_calls(bench, home)
    return problems + bench.finish(home)

def two_after_a_kill(bench):
    "Two calls at the same time on what a killed one left"
    home = bench.home()
    bench.call(home, at=max(1, 2*bench.operations//3)).end()
    problems = two_calls(bench, home)
    return problems + bench.finish(home)

OWN_WORDS = (r'\w*MemoryError|(RuntimeError|OSError).*(allocate memory|start new thread)|.*Unable to allocate'
             r'|SystemError.*without (setting an exception|exception set)') # of C code that got none
PACKAGE = HERE.parent/'landslide_nb'

def own_words(end):
    "Whether a library or Python itself ended a call, in words of its own: only what a command says is ours to choose"
    if re.match(OWN_WORDS, str(end.result)): return True
    places = re.findall(r'File "([^"]+)", line', end.printed) # of the traceback, the innermost last
    return bool(places) and PACKAGE not in Path(places[-1]).parents

def out_of_memory(bench):
    "Too little memory; a library in C that gets none may end the process without a word, or wait, and then only what is left counts"
    problems = []
    for memory in (2**20, 2**24, 2**26): # bytes more than it has
        home = bench.home()
        end = bench.call(home, memory=memory).end(60 + 5*bench.seconds)
        if end.how == 'done': continue
        if own_words(end) and 'command' not in bench.step.call.__name__: end.how = 'said'
        if end.how != 'killed': problems += [f'{memory >> 20} MB: {p}' for p in ends_in_a_sentence(bench, home, end)]
        problems += bench.finish(home)
    return problems

def worker_killed(bench):
    "Kill a worker once the work has begun"
    import psutil
    home = bench.home()
    running = bench.call(home)
    parent, workers = psutil.Process(running.process.pid), []
    end_at = time.time() + 60
    while not workers and time.time() < end_at and running.process.is_alive():
        time.sleep(.05)
        workers = [p for p in parent.children(recursive=True) if 'spawn_main' in ' '.join(p.cmdline())]
    if not workers: return ['there was no worker']
    time.sleep(1)
    workers[0].kill()
    end = running.end()
    problems = [] if end.how == 'done' else list(ends_in_a_sentence(bench, home, end))
    return problems + bench.finish(home)

ANY = ('fetch', 'build', 'save_cube', 'make_chips', 'split_chips', 'save_model', 'finetune', 'adapt', 'experiment', 'map',
       'first_label', 'save_labels', 'label_next', 'turn')
CASES = {
    'full disk': (full_disk, ANY),
    'read-only folder': (read_only_folder, ANY),
    'permission lost in the middle': (permission_lost, ANY),
    'clock set back': (clock_set_back, ANY),
    'two processes on one folder': (two_at_once, ANY),
    'two processes after a kill': (two_after_a_kill, ANY),
    'worker killed': (worker_killed, ('experiment_workers', 'map_cluster')),
    'out of memory': (out_of_memory, ANY),
}

# ---- what is said about it

def group(problems):
    "Sentences and how often they were said, without what differs from time to time"
    counts = {}
    for problem in problems:
        text = re.sub(r'/tmp/\S*?/home', 'HOME', re.sub(r'\.[0-9a-f]{8,}', '.HEX', problem))
        text = re.sub(r'[0-9a-f]{16,}', 'KEY', text)
        counts[text] = counts.get(text, 0) + 1
    return [f'{text} ({n} times)' if n > 1 else text for text, n in counts.items()]

def cell(value):
    "A value as a cell of a table can hold it"
    return str(value).replace('|', '/').replace('\n', ' ')

def table(rows):
    "Dicts with the same keys as markdown"
    names = list(rows[0])
    lines = [names, ['---']*len(names), *[[cell(row[n]) for n in names] for row in rows]]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)

def kill_row(bench, tally, seconds):
    "The row of a step in the table of kills"
    sentences = [sentence for _, sentence in tally.problems]
    def of(start):
        "How many sentences begin so"
        return sum(sentence.startswith(start) for sentence in sentences)
    return {'step': bench.step.name, 'kills': tally.kills, 'by the clock': tally.clock,
        'before a file operation': tally.operation, 'killed twice': tally.again,
        'ended before the kill': tally.late, 'half made': of('half made'), 'next call failed': of('next call'),
        'other result': of('different'), 'stray files': of('stray'), 'left in TMPDIR': len(bench.left_in_tmp()),
        'undisturbed, s': f'{bench.seconds:.2f}', 'in all, s': f'{seconds:.0f}'}

def page(words, kills, cases, details):
    "benchmarks/kills.md"
    out = ['# Killed at random moments', '', (__doc__.split('\n', 2)[2]).strip(), '',
        f'{datetime.now():%Y-%m-%d %H:%M}, `python -m benchmarks.kills {words}`, {platform.platform()}, '
        f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}.', '']
    if kills:
        total = sum(row['kills'] for row in kills)
        lost = sum(row[k] for row in kills for k in ('half made', 'next call failed', 'other result', 'stray files'))
        out += [f'{total} kills, {lost} complaints.', '', table(kills), '']
    if cases: out += [table(cases), '']
    if details: out += ['## What failed', '', *[f'- {line}' for line in details], '']
    return '\n'.join(out)

def killed(bench, args, start):
    "Kill a step; its row, and lines about what failed"
    tally = kill_step(bench, args.times, args.seed)
    row = kill_row(bench, tally, time.perf_counter() - start)
    lines = group(f'{sentence}' for _, sentence in tally.problems)
    first = {sentence: moment for moment, sentence in reversed(tally.problems)}
    examples = [f'for example {moment}: {sentence}' for sentence, moment in list(first.items())[:2]]
    return row, [f'{bench.step.name}: {line}' for line in [*lines, *examples]]

def disturbed(bench, name):
    "Disturb a step in one other way; its row, what was found, and lines about what failed"
    step, (case, _) = bench.step.name, CASES[name]
    try: found = case(bench)
    except Exception as e: found = [f'the case itself failed: {type(e).__name__} {e}']
    skipped = isinstance(found, str)
    lines = [] if skipped else [f'{name}, {step}: {line}' for line in group(found)]
    if skipped: verdict = found
    else: verdict = f'{len(found)} complaints' if found else 'held'
    return {'case': name, 'step': step, 'outcome': verdict}, found, lines

def do_step(step, args, say):
    "Kill a step, then disturb it otherwise; returns its rows and what failed"
    start = time.perf_counter()
    kills, cases = [], []
    details = []
    with tempfile.TemporaryDirectory(prefix='kills-') as folder:
        bench = Bench(step, Path(folder))
        with step.around(bench.inputs) if step.around else nullcontext():
            bench.undisturbed()
            if args.times and step.name != 'experiment_workers':
                row, details = killed(bench, args, start)
                kills.append(row)
            say(*kills, *details)
            for name in [name for name in CASES if name in args.case and step.name in CASES[name][1]]:
                row, found, lines = disturbed(bench, name)
                cases.append(row)
                details += lines
                say(row, found)
    return kills, cases, details

def import_all():
    "Everything a step needs, so that a forked process begins at once"
    import psutil, torch # noqa: F401
    import pyarrow.parquet, safetensors.torch, xarray.backends.zarr, zarr.storage # noqa: F401
    import landslide_nb.all # noqa: F401
    import landslide_nb.app, landslide_nb.cli, landslide_nb.download # noqa: F401
    import landslide_nb.study.experiment, landslide_nb.weights.adapt # noqa: F401
    torch.set_num_threads(1)

def read_args(argv):
    "What the command line asks for"
    p = argparse.ArgumentParser('python -m benchmarks.kills', description=__doc__.split('\n')[0])
    p.add_argument('steps', nargs='*', metavar='STEP', help=', '.join(STEPS))
    p.add_argument('--times', type=int, default=20, help='kills of each step (default 20)')
    p.add_argument('--seed', type=int, default=0, help='of the moments')
    p.add_argument('--no-cases', dest='case', action='store_const', const=[], help='only kill')
    p.add_argument('--case', action='append', choices=list(CASES), help='this disturbance, may be repeated (default: all)')
    p.add_argument('--out', type=Path, default=HERE/'kills.md', help='page to write (default benchmarks/kills.md)')
    args = p.parse_args(argv)
    if args.case is None: args.case = list(CASES)
    unknown = set(args.steps) - set(STEPS)
    if unknown: p.error(f'unknown steps {", ".join(unknown)}; known are {", ".join(STEPS)}')
    return args

def say(*things):
    "Print what is known so far, a thing a line"
    print(*things, sep='\n', flush=True)

def main(argv=None):
    "Do all steps, and write the page anew after each"
    args = read_args(argv)
    import_all()
    words = ' '.join(sys.argv[1:] if argv is None else map(str, argv))
    found = [], [], [] # rows of kills, rows of cases, what failed
    for name in args.steps or STEPS:
        try: more = do_step(STEPS[name], args, say)
        except Exception as e: more = [], [], [f'{name}: not run: {type(e).__name__} {e}']
        for so_far, new in zip(found, more): so_far.extend(new)
        args.out.write_text(page(words, *found))
    print('\n' + args.out.read_text())
    return len(found[2])

if __name__ == '__main__': sys.exit(min(1, main()))
