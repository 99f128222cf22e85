SELECT carrier, count(*) AS flights, avg(delay) AS delay FROM app.flights GROUP BY carrier
