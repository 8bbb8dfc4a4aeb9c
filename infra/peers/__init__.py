"""The scoring job written for other stream processors; run by ``bench peers`` in the peers' own environment, imported by nothing."""
