/* The description of the HTTP API, shown by Swagger UI; nothing is fetched from elsewhere. */
"use strict";

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
