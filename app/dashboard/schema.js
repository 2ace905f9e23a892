// What a task's JSON schema tells somebody who has to fill in its arguments.

const DEPTH = 4; // a schema may contain itself

/** Arguments to begin with: each property's default, or an empty value of its kind. Optional ones only with a default. */
export function sample(schema) {
  return object(schema, schema, DEPTH);
}

/** The properties in words: [{name, kind, required, text}]. */
export function parameters(schema) {
  return Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const found = resolved(property, schema);
    return {
      name,
      kind: kind(found, schema),
      required: (schema.required ?? []).includes(name),
      text: property.description ?? found.description ?? "",
    };
  });
}

function object(schema, root, depth) {
  const given = Object.entries(schema.properties ?? {}).filter(
    ([name, property]) => (schema.required ?? []).includes(name) || "default" in property,
  );
  return Object.fromEntries(given.map(([name, property]) => [name, value(property, root, depth - 1)]));
}

function value(property, root, depth) {
  if ("default" in property) return property.default;
  const schema = resolved(property, root);
  for (const key of ["default", "const"]) if (key in schema) return schema[key];
  if (schema.examples?.length) return schema.examples[0];
  if (schema.enum?.length) return schema.enum[0];
  const [first] = schema.anyOf ?? schema.oneOf ?? [];
  if (first !== undefined) return depth > 0 ? value(first, root, depth - 1) : null;
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case "string": return "";
    case "integer":
    case "number": return schema.minimum ?? 0;
    case "boolean": return false;
    case "array": return [];
    case "object": return depth > 0 ? object(schema, root, depth) : {};
    default: return null;
  }
}

function kind(schema, root) {
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" or ");
  const some = schema.anyOf ?? schema.oneOf;
  if (some) return some.map((each) => kind(resolved(each, root), root)).join(" or ");
  if (schema.type === "array" && schema.items) return `list of ${kind(resolved(schema.items, root), root)}`;
  return [schema.type ?? "anything"].flat().join(" or ");
}

function resolved(schema, root) {
  const path = schema.$ref?.startsWith("#/") ? schema.$ref.slice(2).split("/") : null;
  return path?.reduce((at, part) => at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root) ?? schema;
}
