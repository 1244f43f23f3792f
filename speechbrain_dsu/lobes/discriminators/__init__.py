"""Networks that tell real speech from decoded speech; used in training only."""
