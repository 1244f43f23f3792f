"""Looking on: rates, resynthesis, claims and the pages that report them."""
