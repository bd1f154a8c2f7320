import Link, { type LinkProps } from "@cloudscape-design/components/link";
import { useRouter, type RegisteredRouter, type ToPathOption } from "@tanstack/react-router";

type Props = Omit<LinkProps, "href" | "onFollow"> & {
  to: ToPathOption<RegisteredRouter, string, string>;
  params?: Record<string, string>;
  search?: Record<string, unknown>;
};

/**
 * Addresses that were worked out: the router takes long for that, and a list has a hundred links. They are whole, with
 * the server's name: the components take long, too, to find that one without a name is no address of a script.
 */
const known = new Map<string, string>();
const MOST_KNOWN = 5000;

function addressOf(router: RegisteredRouter, target: Parameters<RegisteredRouter["buildLocation"]>[0]): string {
  const key = JSON.stringify(target);
  let address = known.get(key);
  if (address === undefined) {
    address = new URL(router.buildLocation(target).href, location.origin).href;
    if (known.size >= MOST_KNOWN) known.clear();
    known.set(key, address);
  }
  return address;
}

/** A link that stays inside the console. It has a real address: open it in a new tab, copy it, follow it by keyboard. */
export function RouterLink({ to, params, search, ...rest }: Props) {
  const router = useRouter();
  const target = { to, params, search } as Parameters<typeof router.navigate>[0];
  return (
    <Link
      {...rest}
      href={addressOf(router, target)}
      onFollow={(event) => {
        event.preventDefault();
        void router.navigate(target);
      }}
    />
  );
}
