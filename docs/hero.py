"""The picture of the front page: `python docs/hero.py` maps an embedded event and draws docs/pages/images/hero.jpg.

What the shipped weights find after they saw 20 labelled chips of the event, and the truth; both over shaded heights.
"""
import tempfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LightSource, ListedColormap

import landslide_nb as ls

SIZE, SHOWN = 2048, (slice(550, 1450), slice(250, 1150)) # pixels of the scene, and the part that is drawn
here = Path(__file__).parent

def fine_tuned(pair, folder):
    "The shipped weights, trained on with 20 labelled chips"
    chips = ls.split_chips(ls.make_chips(pair, folder/'chips'))
    stats = ls.read_header('base')['input']['stats']
    learn = ls.continued_learner(ls.finetune_dls(chips, budget=20, stats=stats), 'base')
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(10, learn.lr)
    return ls.export_learner(ls.calibrate_learner(learn), folder/'model.safetensors')

def shade(dem):
    "Heights (m) as light and shadow"
    return LightSource(azdeg=315, altdeg=45).hillshade(dem, vert_exag=1.5, dx=10, dy=10)

def draw(dem, layers, to):
    "Panels side by side: a title, a layer in [0, 1], and its colours"
    fig, axes = plt.subplots(1, len(layers), figsize=(12, 6.6), layout='constrained')
    for ax, (title, layer, colours) in zip(axes, layers):
        ax.imshow(shade(dem), cmap='gray', vmin=-.2, vmax=1.1)
        ax.imshow(np.ma.masked_less(layer, .05), cmap=colours, vmin=0, vmax=1, alpha=np.clip(layer*2, 0, 1))
        ax.set_title(title, fontsize=17)
        ax.set_axis_off()
    fig.savefig(to, dpi=75, bbox_inches='tight', pad_inches=.02, pil_kwargs=dict(quality=88))

def main():
    "Map, and draw"
    matplotlib.use('agg')
    cube = ls.event_cube('demo_a', size=SIZE)
    pair = ls.make_pair(cube)
    with tempfile.TemporaryDirectory() as folder:
        probability = ls.predict_scene(pair, fine_tuned(pair, Path(folder)), progress=False)
    part = [np.asarray(o)[SHOWN] for o in (cube.dem, probability, cube.landslides == 1)]
    dem, found, truth = (o.astype('float32') for o in part)
    panels = [('Landslide probability, from 20 labelled chips', found, 'autumn_r'),
              ('The landslides', truth, ListedColormap(['#c51b1b']))]
    draw(dem, panels, here/'pages'/'images'/'hero.jpg')

if __name__ == '__main__': main()
