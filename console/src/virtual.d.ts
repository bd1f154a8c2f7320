declare module "virtual:limits" {
  /** By section and field. Lists and maps that are made anew each time have no default here. */
  const limits: Record<
    string,
    Record<string, { default: unknown; minimum?: number; maximum?: number; choices?: string[] }>
  >;
  export default limits;
  /** First words of the API's paths, such as `jobs`. */
  export const areas: string[];
}
