"""Which part of the picture a word came from: three methods, one format of map.

- attention: where the decoder attended, from the heads that its configuration names. Free.
- gradient: attention times the gradient of the word's log-probability with respect to it, over all heads (after Chefer
  et al. 2021, "Generic attention-model explainability", eq. 5). A few times slower; needs torch.
- occlusion: how much less likely the word becomes when a block of cells is occluded in the picture (Zeiler and Fergus
  2014). It asks the whole model, encoder included, and no other method is as faithful; one encoding a cell.

`captioner.options.MapOptions` says which; a model's file holds the options that were measured to be the best for it.
"""
