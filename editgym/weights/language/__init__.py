"""Language models whose weights can be edited: the decoder, its passes, its batches of tokens."""
