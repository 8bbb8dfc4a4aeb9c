"""Synthetic card traffic: a population, its ordinary payments, and seven kinds of fraud with labels.

Everything here is invented from a seed; nothing is derived from a real person, card or shop, and no file of transactions is
read.  The same seed gives the same bytes.
"""
