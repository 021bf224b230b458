"Side-by-side duels with peers: `python -m benchmarks` after `pip install -e '.[bench]'`"
