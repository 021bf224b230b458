"""How OPERA's transformers rank the pixels of one real landslide, by average precision, beside our baselines.

    python -m benchmarks.opera

Needs `distmetrics` 1.0 or newer (Python 3.12) and the real cube that is kept beside the project. The score of a pixel is the larger z-score
of VV and VH, as is their default; of all passes after the event it is the mean over them. Values go in as logits of linear power.
"""
import warnings

import numpy as np

from benchmarks.duels import PNG
from landslide_nb.data.cube import cube_event, open_cube
from landslide_nb.learn.metrics import average_precision

def image_of(dm, network, before, after):
    "The z-scores of one pass after the event"
    return np.nan_to_num(dm.compute_transformer_zscore(network, *before, *after, tqdm_enabled=False).dist)

def passes_of(cube):
    "VV and VH of all passes before the event, and of each after it, as logits"
    from scipy.special import logit
    event, times = cube_event(cube), cube.time.values
    bands = [logit(cube[name].values) for name in ('vv', 'vh')]
    before = [list(band[event.is_pre(times)]) for band in bands]
    return before, [[band[k] for band in bands] for k in np.flatnonzero(event.is_post(times))]

def row_of(dm, name, before, posts, truth):
    "How a transformer ranks the pixels, from the first pass after the event and from all"
    network = dm.load_transformer_model(name)
    images = [image_of(dm, network, before, after) for after in posts]
    first, every = (average_precision(score, truth, scores=True) for score in (images[0], np.mean(images, 0)))
    return f'| {name} | {first:.3f} | {every:.3f} |'

def main():
    "Print a row for every transformer"
    import distmetrics as dm # it is not installed everywhere
    import torch
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    cube = open_cube(PNG)
    before, posts = passes_of(cube)
    print('| weights | first pass after | all passes |', '|---|---:|---:|', sep='\n')
    for name in dm.ALLOWED_MODELS: print(row_of(dm, name, before, posts, cube.landslides.values), flush=True)

if __name__ == '__main__': main()
