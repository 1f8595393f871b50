// Shows this server's OpenAPI document with Swagger UI; "Execute" sends requests to this server.
"use strict";

const reference = document.getElementById("reference");

const adjusted = {
  wrapComponents: {
    // The document names one server, this one: there is nothing to choose.
    ServersContainer: () => () => null,
    // Swagger UI's main landmark does not hold the introduction.
    InfoContainer: (InfoContainer, { React }) => (props) =>
      React.createElement(
        "section",
        { "aria-label": "Introduction" },
        React.createElement(InfoContainer, props),
      ),
    // A heading between the title's h1 and the h3 of each group.
    operations: (Operations, { React }) => (props) =>
      React.createElement(
        React.Fragment,
        null,
        React.createElement("h2", { className: "operations-title" }, "Operations"),
        React.createElement(Operations, props),
      ),
  },
};

SwaggerUIBundle({
  domNode: reference,
  url: reference.dataset.document,
  plugins: [adjusted],
  // Deep links are links inside buttons, which a screen reader does not announce.
  deepLinking: false,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // no badge from a validator on the internet
  validatorUrl: null,
});
