"""How OPERA's transformers rank the pixels of one real landslide, by average precision, beside our baselines.

    python -m benchmarks.opera

Needs `distmetrics` 1.0 or newer (Python 3.12) and the real cube that is kept beside the project. The score of a pixel is the larger z-score
of VV and VH, as is their default; of all passes after the event it is the mean over them. Values go in as logits of linear power.
"""
import warnings

import numpy as np

from benchmarks.duels import PNG

def image_of(dm, network, before, after):
    "The z-scores of one pass after the event"
    return np.nan_to_num(dm.compute_transformer_zscore(network, *before, *after, tqdm_enabled=False).dist)

def main():
    import distmetrics as dm
    import torch
    from scipy.special import logit
    from landslide_nb.data.cube import cube_event, open_cube
    from landslide_nb.learn.metrics import average_precision
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    cube = open_cube(PNG)
    event, truth = cube_event(cube), cube.landslides.values
    pre, post = (np.flatnonzero(side(cube.time.values)) for side in (event.is_pre, event.is_post))
    bands = [logit(cube[name].values) for name in ('vv', 'vh')]
    before = [list(band[pre]) for band in bands]
    print('| weights | first pass after | all passes |', '|---|---:|---:|', sep='\n')
    for name in dm.ALLOWED_MODELS:
        network = dm.load_transformer_model(name)
        images = [image_of(dm, network, before, [band[k] for band in bands]) for k in post]
        first, every = (average_precision(score, truth, scores=True) for score in (images[0], np.mean(images, 0)))
        print(f'| {name} | {first:.3f} | {every:.3f} |', flush=True)

if __name__ == '__main__': main()
