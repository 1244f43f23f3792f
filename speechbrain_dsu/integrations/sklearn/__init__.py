"""scikit-learn: k-means models that others saved as pickles."""
