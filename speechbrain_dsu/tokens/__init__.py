"""What tokens are, and every lossless way to arrange them; no parameters in here.

- ``streams``: codes of a batch with their lengths and provenance;
- ``vocabulary``: special ids, offsets, padding;
- ``runs``: repeated units to one unit with a duration, and back;
- ``layout``, ``patterns``: codebooks to the ids of a sequence model, and back;
- ``interleave``: text and units in one sequence, and apart again;
- ``subwords``: unit sequences to subword pieces, and back.
"""
