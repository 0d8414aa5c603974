"""Data sets: what they hold, which images train and which validate, and the images themselves as tensors.

Planning reads `facts` and `layout`, which do not import torch; training reads `source`.
"""
