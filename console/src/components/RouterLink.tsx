import Link, { type LinkProps } from "@cloudscape-design/components/link";
import { useRouter, type RegisteredRouter, type ToPathOption } from "@tanstack/react-router";

type Props = Omit<LinkProps, "href" | "onFollow"> & {
  to: ToPathOption<RegisteredRouter, string, string>;
  params?: Record<string, string>;
  search?: Record<string, unknown>;
};

/** A link that stays inside the console. It has a real address: open it in a new tab, copy it, follow it by keyboard. */
export function RouterLink({ to, params, search, ...rest }: Props) {
  const router = useRouter();
  const target = { to, params, search } as Parameters<typeof router.navigate>[0];
  return (
    <Link
      {...rest}
      href={router.buildLocation(target).href}
      onFollow={(event) => {
        event.preventDefault();
        void router.navigate(target);
      }}
    />
  );
}
