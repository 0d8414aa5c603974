"""Data sets: what they hold, which images train and which validate, and the images themselves as tensors.

Planning reads `facts` and `stores`, which do not import torch; training reads `source`.
"""
