"Reads everything about the package from settings.ini, the one place for name, version, dependencies and scripts."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lines = lambda key: [o.strip() for o in cfg[key].splitlines() if o.strip()]

setup(
    name=cfg['name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], license=cfg['license'], python_requires=f">={cfg['min_python']}",
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['landslide_nb*']), include_package_data=True, zip_safe=False,
    install_requires=lines('requirements'), extras_require={extra: lines(f'{extra}_requirements') for extra in ('dev', 'docs', 'cluster', 'opera', 'bench')},
    classifiers=[
        'Development Status :: 4 - Beta', 'Intended Audience :: Science/Research', 'Operating System :: OS Independent',
        'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: GIS', 'Typing :: Typed'],
    entry_points={'console_scripts': lines('console_scripts')},
)
