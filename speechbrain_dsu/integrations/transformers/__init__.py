"""Speech models of Hugging Face transformers behind this package's contracts.

``ssl``: HuBERT, WavLM, wav2vec 2.0, w2v-BERT 2.0; ``codecs``: EnCodec, DAC, Mimi,
X-Codec. transformers itself is imported when an object is built.
"""
