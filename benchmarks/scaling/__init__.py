"""The scaling policy over traces of requests, beside an oracle that knows them in advance."""
