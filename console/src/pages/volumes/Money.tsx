import { dollars } from "../../format";

/** Dollars, and whether they rest on an estimated price. */
export function Money({ usd, estimated }: { usd: number | null; estimated: boolean }) {
  if (usd == null) return "price not known";
  return (
    <span className="figure" title={estimated ? "Rests on a price that is estimated" : undefined}>
      {dollars(usd)}
      {estimated && " (est.)"}
    </span>
  );
}
