"""Speed limits of neural-network training: the formulas, one equation per function.

Arrays in, arrays out: no file access, no configuration, no choice of device happens in here.
"""
