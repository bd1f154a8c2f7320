import Box from "@cloudscape-design/components/box";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";

import type { Schema } from "../../api/client";
import { count, dollars } from "../../format";

type Price = Schema<"VolumePriceView">;

/** What jobs of some sizes would get by the values above, saved or not, and what AWS charges for it. */
export function VolumePrices({ prices }: { prices: Price[] | null | undefined }) {
  const first = prices?.[0];
  if (!prices || !first) return null;
  return (
    <div data-field="volume-prices">
      <Box variant="awsui-key-label">What a volume costs</Box>
      <Box color="text-body-secondary" margin={{ bottom: "xs" }}>
        {`For as long as it exists, in ${first.region}${prices.some((one) => one.estimated) ? "; estimated" : ""}.`}
      </Box>
      <KeyValuePairs
        columns={4}
        items={prices.map((one) => ({ label: `A job of ${count(one.memory_mib / 1024)} GiB`, value: priced(one) }))}
      />
    </div>
  );
}

/** `100 GiB, 183 MiB/s: $0.014 an hour` */
export function priced(one: Price): string {
  const fast = one.throughput_mib_per_second > 0 ? `, ${count(one.throughput_mib_per_second)} MiB/s` : "";
  const price = one.usd_per_hour == null ? "its price is not known" : `${dollars(one.usd_per_hour)} an hour`;
  return `${count(one.size_gib)} GiB${fast}: ${price}`;
}
