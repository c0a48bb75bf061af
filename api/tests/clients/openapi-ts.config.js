// Node's own modules ask for the extension.
export default {
  input: "openapi.json",
  output: { path: "hey-api", module: { extension: ".js" } },
};
