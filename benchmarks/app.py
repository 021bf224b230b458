"""The browser app: first view, threshold changes and counting on a large scene, beside hvplot's `image(rasterize=True)`.
Run `python benchmarks/app.py [SIDE]` (default 10000 px; needs datashader). Each measurement is a process of its own; ratios are of one run."""
import json, resource, subprocess, sys, tempfile, time
from pathlib import Path


def peak_gb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20

def make_run(folder:Path, side:int):
    "A run folder of a large scene: many small landslides, written strip by strip"
    import numpy as np, rasterio, rasterio.shutil
    folder.mkdir(parents=True)
    plain = folder/'plain.tif'
    with rasterio.open(plain, 'w', driver='GTiff', width=side, height=side, count=1, dtype='float32', crs='EPSG:32654', transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10), nodata=float('nan'), tiled=True, blockxsize=256, blockysize=256) as f:
        for r in range(0, side, 256):
            g = np.random.default_rng(r); n = min(256, side-r)
            p = np.round(g.beta(.5, 40, (n, side)).astype('float32'), 3)
            for y, x in zip(g.integers(0, max(1, n-12), side//40), g.integers(0, side-12, side//40)): p[y:y+g.integers(2, 12), x:x+g.integers(2, 12)] = np.round(g.uniform(.3, .95), 3)
            f.write(p, 1, window=rasterio.windows.Window(0, r, side, n))
    rasterio.shutil.copy(plain, folder/'probability.tif', driver='COG', compress='DEFLATE', predictor='YES', blocksize=256, overview_resampling='average')
    plain.unlink(); (folder/'metrics.json').write_text(json.dumps(dict(threshold=.5)))

def ours(root):
    "Seconds and GB of the first view; seconds of the scan and of a threshold change"
    from landslide_nb import app
    run = app.open_run(root, 'run'); base, start = peak_gb(), time.perf_counter()
    run = app.open_run(root, 'run'); view = app.read_layers(run, app.fit(run.bounds)); app.image_data(view['probability'], 0, 1)
    first, more, start = time.perf_counter() - start, peak_gb() - base, time.perf_counter()
    scan = app.scan_run(run); scanned, slowest = time.perf_counter() - start, 0
    for t in (.05, .2, .5, .8):
        start = time.perf_counter(); app.numbers_html(run, scan, t); slowest = max(slowest, time.perf_counter() - start)
    return dict(first_view_s=first, first_view_gb=more, scan_s=scanned, threshold_s=slowest, peak_gb=peak_gb())

def peer(root):
    "hvplot's rasterize of the same raster, drawn to a bokeh figure"
    import holoviews as hv, hvplot.xarray, rioxarray
    hv.extension('bokeh'); base, start = peak_gb(), time.perf_counter()
    da = rioxarray.open_rasterio(Path(root)/'run'/'probability.tif')[0]
    hv.render(da.hvplot.image(x='x', y='y', rasterize=True))
    return dict(first_view_s=time.perf_counter() - start, first_view_gb=peak_gb() - base)

def main(side=10_000):
    "Both, each in a fresh process"
    with tempfile.TemporaryDirectory() as d:
        make_run(Path(d)/'run', side)
        child = lambda name: json.loads(subprocess.run([sys.executable, __file__, name, d], capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        a, b = child('ours'), child('peer')
    return dict(side=side, ours=a, hvplot=b, first_view_ratio=b['first_view_s']/a['first_view_s'])

if __name__ == '__main__':
    if sys.argv[1:2] in (['ours'], ['peer']): print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
    else: print(json.dumps(main(*map(int, sys.argv[1:])), indent=1))
