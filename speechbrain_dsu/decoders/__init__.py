"""Search and sampling over units; no waveforms here.

A model arrives as an object with the methods of ``protocol.Session``:

- ``sampling``: which id to take, from logits;
- ``rules``: what may stand where, and when an item ends;
- ``generation``: one step after the other; ``guidance``: with and without a condition;
- ``beam``: the likeliest sequences; ``speculative``: a small model writes ahead;
- ``repetition``: loops, and how varied results are.

CTC and transducer search are SpeechBrain's: ``speechbrain.decoders.ctc`` (greedy,
prefix beam) and ``speechbrain.decoders.transducer`` take log probabilities and
networks over ids as models here give them; ``vocabulary["<blank>"]`` is their blank.
"""
