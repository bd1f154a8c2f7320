"""Where checkpoints are kept when no job volume holds them: a shared directory or S3, in one format.

    objects     what a store must do, method by method        directory, s3     the two that do it
    patience    tries again what may succeed                  bandwidth         whose turn it is on this node
    layout      the names of objects                          sealing           one frame for manifests, with a seal
    cutting, codecs, packs                                    files become chunks, chunks become packs
    tree, stored_manifest                                     what a stored checkpoint is made of
    upload, fetch, collecting                                 put it there, bring it back, give space back
    stored_checkpoints   START HERE: one job's checkpoints in a store

The format is described byte by byte in docs/image-format.md. What lies in a store is untrusted input.
"""
