"""What a GPU does with these models: `make gpu-check`, or `python -m benchmarks.gpu --device cpu --quick` anywhere.

Each part gives lines of a table: what, what was found, what is wanted of it, and whether that is so. Texts are random
tokens of Quora's lengths, so no data and no hub is needed. With --quick models are tiny, and nothing is said of speed.
Exit status: 0; 1 where something is not as wanted; 3 where there is no GPU; make has 2 for both. On a GPU
benchmarks/gpu.json keeps the lines.
"""
