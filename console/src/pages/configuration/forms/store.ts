/** Where checkpoints of jobs without a managed volume are kept. */
import { form } from "./form";

export const store = form<"store">()(
  "Store",
  "Where checkpoints are kept of jobs without a managed volume. A change holds for jobs that begin from now on.",
  [
    {
      title: "Kind",
      settings: {
        kind: {
          kind: "choice",
          label: "Store",
          help: "directory: a file system that all instances and the server have mounted. s3: a bucket. none: jobs without a managed volume run unprotected.",
        },
        scratch_gib: {
          kind: "integer",
          label: "Space on the instance",
          unit: "GiB",
          help: "A running job's files and its newest checkpoint take at most so much of its instance's disk.",
        },
        sealed: {
          kind: "switch",
          label: "Sealed",
          help: "Only checkpoints that are sealed with the installation's key are restored. For stores that others can write.",
        },
      },
    },
    {
      title: "Directory",
      settings: {
        directory: {
          kind: "text",
          label: "Directory",
          help: "An absolute path, the same on every instance and on the server. It must exist.",
          example: "/mmc-checkpoint",
        },
      },
    },
    {
      title: "S3",
      settings: {
        bucket: {
          kind: "text",
          label: "Bucket",
          help: "The instances' role and the server's must be allowed to use it.",
          example: "my-checkpoints",
        },
        prefix: {
          kind: "text",
          label: "Prefix",
          help: "What all names begin with: empty, or ending with a slash.",
          example: "perdure/",
        },
        region: {
          kind: "text",
          label: "Region",
          help: "Empty: the instance's own.",
          example: "us-east-1",
          none: "the instance's own",
        },
        kms_key: {
          kind: "text",
          label: "KMS key",
          help: "Its id, ARN or alias. Empty: the bucket's own encryption.",
          example: "alias/checkpoints",
          none: "the bucket's own encryption",
        },
        bucket_owner: {
          kind: "text",
          label: "Bucket owner",
          help: "The account that the bucket must belong to. Empty: not looked at.",
          example: "123456789012",
          none: "not looked at",
        },
      },
    },
  ],
);
