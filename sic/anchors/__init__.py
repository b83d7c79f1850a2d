"""The classical codecs beside the study's curves: which and how (`classical`), the programs that
run them (`programs`), colour planes (`planes`), VVC+M (`vvc_m`), and results kept on disk
(`cached`)."""
