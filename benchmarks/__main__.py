"Run the duels one after the other, print their ratios, write benchmarks/results.md and results.json"
import argparse, json, os, platform, subprocess, sys, time
from pathlib import Path

from benchmarks import archive # noqa: F401 (a duel of its own)
from benchmarks.duels import DUELS

here = Path(__file__).parent
PACKAGES = ('torch', 'fastai', 'dask', 'distributed', 'xarray', 'zarr', 'rasterio', 'scikit-learn', 'torchmetrics', 'xbatcher', 'torchgeo', 'segmentation-models-pytorch', 'monai', 'tiler', 'terratorch', 'distmetrics')

def commit():
    "The last one that changed the package, with a plus where it was changed since; '' where git does not say"
    def asked(*words): return subprocess.run(['git', '-C', str(here), *words], capture_output=True, text=True).stdout.strip()
    try: return asked('log', '-1', '--format=%h', '--', '../landslide_nb') + '+'*bool(asked('status', '--porcelain', '--', '../landslide_nb'))
    except OSError: return ''

def machine():
    "What the numbers were measured on"
    from importlib.metadata import PackageNotFoundError, version
    def found(name):
        try: return version(name)
        except PackageNotFoundError: return 'not installed'
    cpu = next((line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')), platform.processor()) if os.path.exists('/proc/cpuinfo') else platform.processor()
    return dict(commit=commit(), day=time.strftime('%Y-%m-%d'), cpu=cpu, cores=os.cpu_count(), load=round(os.getloadavg()[0], 1), system=platform.platform(), python=platform.python_version(), packages={o: found(o) for o in PACKAGES})

def days_and_commits(results):
    "Which duel was measured on which machine and commit, and which are older than the newest"
    newest = max((r['machine'] for r in results.values() if 'failed' not in r), key=lambda m: m.get('day', ''))
    rows = [(name, r['machine']) for name, r in results.items()]
    older = [name for name, m in rows if m.get('commit') != newest.get('commit')]
    missing = [name for name in DUELS if name not in results]
    lines = [f"The newest numbers are of commit {newest.get('commit')} ({newest.get('day')}, {newest['cpu']}, {newest['cores']} cores)."]
    if older: lines.append(f"Not run on that commit: {', '.join(older)}. Their numbers are those of the commit in the table, which is the one that recorded them, and nothing says that they hold today.")
    if missing: lines.append(f"Never run: {', '.join(missing)}.")
    table = [f"| {name} | {m['cpu']}, {m['cores']} cores | {m.get('commit') or 'not recorded'} | {m.get('day', '')} |" for name, m in rows]
    return [' '.join(lines), '', '| duel | machine | commit | day |', '|---|---|---|---|', *table, '']

def page(results):
    "results.json for people"
    out = ['# Duels', '', 'Made by `python -m benchmarks`; ratios are medians over alternating rounds in one process, with their range; above 1, landslide_nb is faster. Beside the clock stands the ratio in CPU time of '
           'all threads, which other work on the machine disturbs less. `load` is the machine\'s average load when a duel began: it slows both sides of a duel, and blurs absolute rates.', '']
    if len(results) > 1: out += days_and_commits(results)
    for name, r in results.items():
        m = r['machine']
        out += [f'## {name}', '', r['what'], '', f"{r['settings']}. {m['cpu']}, {m['cores']} cores, commit {m.get('commit') or 'not recorded'}, load {m['load']}, Python {m['python']}, torch {m['packages']['torch']}; {r['seconds']:.0f} s.", '']
        if 'failed' in r: out += [f"Not run: {r['failed']}", '']; continue
        columns = list(dict.fromkeys(k for row in r['rows'] for k in row))
        form = lambda v: '' if v is None else f'{v:,.4g}' if isinstance(v, float) else str(v)
        out += ['| '+' | '.join(columns)+' |', '|'+'---|'*len(columns)] + ['| '+' | '.join(form(row.get(k)) for k in columns)+' |' for row in r['rows']] + ['']
    return '\n'.join(out)

def one(name, scale):
    "Run one duel here"
    start, m = time.time(), machine()
    what, run = DUELS[name].__doc__, DUELS[name]
    try: settings, rows = run(scale)
    except ImportError as e: return dict(what=what, settings='', scale=scale, machine=m, seconds=time.time()-start, failed=f'{e}; a peer that is not installed is not imitated')
    return dict(what=what, settings=settings, scale=scale, rows=rows, machine=m, seconds=time.time()-start)

def main():
    p = argparse.ArgumentParser('python -m benchmarks', description=__doc__)
    p.add_argument('duels', nargs='*', metavar='DUEL', help=f"one or several of {', '.join(DUELS)}; default: all")
    p.add_argument('--scale', type=float, default=1., help='size of the inputs, 1 = as stated in results.md')
    p.add_argument('--here', action='store_true', help='in this process, print JSON (used for one duel by the run of all)')
    p.add_argument('--out', type=Path, default=here, help='folder of results.md and results.json')
    args = p.parse_args()
    if unknown := set(args.duels)-set(DUELS): p.error(f"unknown duel {', '.join(sorted(unknown))}")
    if args.here: print('RESULT', json.dumps(one(args.duels[0], args.scale))); return
    path = args.out/'results.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.duels or DUELS: # each in a process of its own: no peer inherits another's threads or memory
        out = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'benchmarks', name, '--here', '--scale', str(args.scale)], cwd=here.parent, stdout=subprocess.PIPE, text=True)
        found = [line[7:] for line in out.stdout.splitlines() if line.startswith('RESULT ')]
        if not found: print(f'{name}: failed with exit code {out.returncode}', file=sys.stderr); continue
        results[name] = json.loads(found[0])
        results = {k: results[k] for k in DUELS if k in results}
        path.write_text(json.dumps(results, indent=1)+'\n'); (args.out/'results.md').write_text(page(results))
        print(page({name: results[name]}), flush=True)

if __name__ == '__main__': main()
