/** Sign-in with Amazon Cognito. */
import { form } from "./form";

export const cognito = form<"cognito">()(
  "Cognito",
  "Sign-in with an Amazon Cognito user pool. No AWS keys are needed. A change takes effect at once.",
  [
    {
      title: "Sign-in",
      settings: {
        enabled: {
          kind: "switch",
          label: "Sign-in with Cognito",
          help: "On: nobody gets in without signing in, not even on this machine. Try a sign-in first.",
        },
      },
    },
    {
      title: "User pool",
      settings: {
        region: { kind: "text", label: "Region", help: "AWS region of the pool.", example: "us-east-1" },
        user_pool_id: { kind: "text", label: "User pool id", help: "As the pool's page in AWS shows it.", example: "us-east-1_aB3dE5" },
        client_id: {
          kind: "text",
          label: "App client id",
          help: "The pool's app client for Perdure. It must have no secret.",
        },
        domain: {
          kind: "text",
          label: "Hosted page",
          help: "Base address of the pool's own sign-in page. Empty: user name and password only.",
          example: "https://my-perdure.auth.us-east-1.amazoncognito.com",
        },
      },
    },
    {
      title: "Who may do what",
      settings: {
        admin_groups: {
          kind: "lines",
          label: "Groups of administrators",
          help: "Members change things. One group a line.",
        },
        viewer_groups: {
          kind: "lines",
          label: "Groups of viewers",
          help: "Members read. Empty: everyone of the pool reads. One group a line.",
          none: "everyone of the pool",
        },
      },
    },
  ],
);
